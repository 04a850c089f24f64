// What topics do with a node: following its methods and widgets, and setting values as the user would.
import { app } from "../../../scripts/app.js";
import { rootGraph } from "./graph.js";

/** Calls `act`, with the same values, after a method of a node or the callback of a widget. */
export function after(target, name, act) {
  const before = target[name];
  target[name] = function (...given) {
    const answer = before?.apply(this, given);
    act.apply(this, given);
    return answer;
  };
}

/** The calls of `whileInGraph` whose node is in a graph: { node, removed }. */
const inGraph = new Set();

/** Calls `added` when a node comes into a graph, and `removed` when it leaves it. */
export function whileInGraph(node, added, removed) {
  const entry = { node, removed };
  after(node, "onAdded", () => {
    inGraph.add(entry);
    added();
  });
  after(node, "onRemoved", () => {
    inGraph.delete(entry);
    removed();
  });
}

/** Call when a workflow is open. ComfyUI tells no node in a subgraph that its workflow was closed. */
export function forgetClosed() {
  for (const entry of inGraph) {
    if (isOpen(entry.node)) continue;
    inGraph.delete(entry);
    entry.removed();
  }
}

function isOpen({ graph, id }) {
  const root = rootGraph();
  const known = graph === root || root.subgraphs?.get(graph?.id) === graph;
  return Boolean(graph) && known && graph.getNodeById(id)?.graph === graph;
}

export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/** Whether the value of an input comes by wire. */
export function isLinked(node, name) {
  return (node.inputs ?? []).some((input) => {
    return (input.widget?.name ?? input.name) === name && input.link != null;
  });
}

/** Sets a widget's value as the user would: its callback runs, and the graph is drawn. */
export function setValue(node, widget, value) {
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.graph?.setDirtyCanvas?.(true, true);
}

/** Tells ComfyUI that the workflow changed, so that it can be undone and is marked as not saved. */
export function rememberChange() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState?.(); // older front ends
}
