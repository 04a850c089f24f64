// Finds nodes: in subgraphs, by the ids of messages, and along links.
import { app } from "../../../scripts/app.js";

export function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/** All nodes of the workflow, also those in subgraphs. */
export function* everyNode(graph = rootGraph(), seen = new Set()) {
  if (!graph || seen.has(graph)) return;
  seen.add(graph);
  for (const node of graph.nodes ?? []) {
    yield node;
    if (node.subgraph) yield* everyNode(node.subgraph, seen);
  }
}

/** The nodes whose subgraph a graph is. */
export function hostsOf(graph) {
  return [...everyNode()].filter((node) => node.subgraph === graph);
}

/** Returns the node of a message. In subgraphs the id is a path: "12:5" is node 5 in node 12. */
export function nodeOf(executionId) {
  const path = String(executionId).split(":");
  const last = path.pop();
  let graph = rootGraph();
  for (const step of path) graph = graph?.getNodeById(step)?.subgraph;
  return graph?.getNodeById(last) ?? null;
}

/** The name of a node in app.nodeOutputs: "5", or "<id of its subgraph>:5". */
export function locatorOf(node) {
  return node.graph === rootGraph() ? String(node.id) : `${node.graph.id}:${node.id}`;
}

/** Returns a link by its id. */
export function linkOf(graph, id) {
  return id == null ? undefined : (graph?.getLink?.(id) ?? graph?.links?.[id]);
}

/** Returns the node that an input is connected to, also if the link comes from outside the subgraph. */
export function sourceOf(node, place) {
  const { graph } = node;
  const link = linkOf(graph, node.inputs?.[place]?.link);
  if (!link) return null;
  if (!graph.inputNode || link.origin_id !== graph.inputNode.id) return graph.getNodeById(link.origin_id);
  const [host] = hostsOf(graph);
  return host ? sourceOf(host, link.origin_slot) : null;
}
