// Where the values of a node's inputs are set: in its own widgets, or around it in the node of its subgraph.
import { app } from "../../../../scripts/app.js";

/**
 * Returns where an input's value is set: { node, widget }. If it comes from another node, or from several
 * nodes around this one of which `host` names none, { linked: true }. Null if the node has no such input.
 */
export function settingOf(node, name, host) {
  const input = node.inputs?.find((each) => each.name === name);
  if (input?.link == null) {
    const widget = node.widgets?.find((each) => each.name === name);
    return widget ? { node, widget } : null;
  }
  const link = node.graph?.getLink?.(input.link);
  const outer = link && node.graph.inputNode?.id === link.origin_id && node.graph.inputs?.[link.origin_slot];
  const around = outer ? (host ? [host] : hostsOf(node.graph)) : [];
  return (around.length === 1 && settingOf(around[0], outer.name)) || { linked: true };
}

/** Sets a value as the user would: the widget's callback runs, and the graph is drawn. */
export function setValue({ node, widget }, value) {
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.graph?.setDirtyCanvas?.(true, true);
}

/** Tells ComfyUI that the workflow changed, so that it can be undone and is marked as not saved. */
export function rememberChange() {
  const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState?.(); // older front ends
}

/** Calls `act` after each change of a setting; `previous` is the one that was followed before. */
export function follow(setting, previous, act) {
  if (setting?.widget === previous?.widget) return;
  if (previous?.widget?.callback?.followed) previous.widget.callback = previous.widget.callback.followed;
  if (!setting?.widget) return;
  const before = setting.widget.callback;
  const after = function (...given) {
    const answer = before?.apply(this, given);
    act();
    return answer;
  };
  after.followed = before ?? (() => {});
  setting.widget.callback = after;
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

function rootGraph() {
  return app.rootGraph ?? app.graph;
}

function pathsOf(graph) {
  if (graph === rootGraph()) return [""];
  return hostsOf(graph).flatMap((host) => pathsOf(host.graph).map((path) => `${path}${host.id}:`));
}

/** The nodes whose subgraph a graph is. */
function hostsOf(graph, within = rootGraph(), seen = new Set()) {
  if (seen.has(within)) return [];
  seen.add(within);
  const nodes = (within.nodes ?? []).filter((node) => node.subgraph);
  const here = nodes.filter((node) => node.subgraph === graph);
  return [...here, ...nodes.flatMap((node) => hostsOf(graph, node.subgraph, seen))];
}
