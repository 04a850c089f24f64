// Where the values of a node's inputs are set: in its own widgets, or around it in the node of its subgraph.
import { hostsOf, linkOf, rootGraph } from "../graph.js";
import { after, widgetOf } from "../nodes.js";

/**
 * Returns where an input's value is set: { node, widget }. If it comes from another node, or from several
 * nodes around this one of which `host` names none, { linked: true }. Null if the node has no such input.
 */
export function settingOf(node, name, host) {
  const input = node.inputs?.find((each) => each.name === name);
  if (input?.link == null) {
    const widget = widgetOf(node, name);
    return widget ? { node, widget } : null;
  }
  const link = linkOf(node.graph, input.link);
  const outer = link && node.graph.inputNode?.id === link.origin_id && node.graph.inputs?.[link.origin_slot];
  const around = outer ? (host ? [host] : hostsOf(node.graph)) : [];
  return (around.length === 1 && settingOf(around[0], outer.name)) || { linked: true };
}

/** Widget -> the functions to call after its value has changed. */
const followers = new WeakMap();

/** Calls `act` after each change of a widget's value, until `unfollow`. */
export function follow(widget, act) {
  if (!followers.has(widget)) {
    followers.set(widget, new Set());
    after(widget, "callback", () => [...followers.get(widget)].forEach((each) => each()));
  }
  followers.get(widget).add(act);
}

/** The opposite of `follow`. */
export function unfollow(widget, act) {
  followers.get(widget)?.delete(act);
}

/**
 * The ids of a node in a prompt: "12:5" is node 5 in node 12. A subgraph that is used twice gives two, of
 * which `host` takes one.
 */
export function executionIds(node, host) {
  const paths = host ? executionIds(host).map((id) => `${id}:`) : pathsOf(node.graph);
  return paths.map((path) => `${path}${node.id}`);
}

/** Returns the serialized form of a node in a serialized workflow, or undefined. */
export function savedNode(workflow, node) {
  const inside = workflow.definitions?.subgraphs?.find((each) => each.id === node.graph.id);
  const graph = node.graph === rootGraph() ? workflow : inside;
  return graph?.nodes?.find((each) => String(each.id) === String(node.id));
}

function pathsOf(graph) {
  if (graph === rootGraph()) return [""];
  return hostsOf(graph).flatMap((host) => pathsOf(host.graph).map((path) => `${path}${host.id}:`));
}
