// Fewer and plainer widgets: inputs that are rarely needed behind a button, none that have no effect, and
// "auto" for numbers that stand for it.
import { app } from "../../../../scripts/app.js";
import { api } from "../../../../scripts/api.js";
import { loadStyle } from "../dom.js";
import { after, whileInGraph } from "../nodes.js";
import { fit, hideWidgets } from "./hiding.js";
import { addMore, refreshMore } from "./more.js";
import { addNumbers, setupNumbers } from "./numbers.js";
import { isInput, WITHOUT_EFFECT } from "./rules.js";

export { noteNumbers } from "./numbers.js";

/** Functions that hide inputs without effect, of all nodes in the graph. */
const narrowed = new Set();

/** Call once. */
export function setupWidgets() {
  loadStyle("widgets");
  setupNumbers();
  api.addEventListener("graphChanged", refreshWidgets);
}

/** Looks again at all nodes. Call when a workflow was opened. */
export function refreshWidgets() {
  refreshMore();
  for (const narrow of narrowed) narrow(false);
}

/** Prepares the widgets of a node, before panels are added to it. */
export function prepareWidgets(node) {
  addNumbers(node);
  addMore(node);
  const withoutEffect = WITHOUT_EFFECT[node.comfyClass];
  if (!withoutEffect) return;
  const hidden = (name) => (isInput(node, name) ? Boolean(withoutEffect(node, name)) : undefined);
  const narrow = (resize = !app.configuringGraph) => hideWidgets(node, hidden, { resize });
  whileInGraph(
    node,
    () => narrowed.add(narrow),
    () => narrowed.delete(narrow),
  );
  after(node, "onConfigure", () => narrow(false));
  after(node, "onConnectionsChange", () => {
    // A saved size already has room for the inputs that are linked.
    const resize = !app.configuringGraph;
    queueMicrotask(() => narrow(resize));
  });
  for (const widget of node.widgets) after(widget, "callback", () => narrow());
  narrow(false);
  fit(node, 0);
}
