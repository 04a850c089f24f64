// Shows the sentence of an error in the node that failed. ComfyUI itself only says that a node failed.
import { api } from "../../../scripts/api.js";
import { element, loadStyle } from "./dom.js";
import { nodeOf } from "./graph.js";
import { after, widgetOf } from "./nodes.js";
import { addPanel } from "./panels.js";
import { translateSentence } from "./translate.js";

const WIDGET = "instructbrush_error";
const HEIGHT = 100;

/** Node that shows an error -> its height before. */
const heights = new Map();

/** Nodes whose saved size leaves the error out. */
const followed = new WeakSet();

/** Shows errors of this pack's nodes until the next run. */
export function showErrors() {
  loadStyle("errors");
  api.addEventListener("execution_start", clear);
  api.addEventListener("execution_error", ({ detail }) => {
    const node = nodeOf(detail.node_id);
    const { node_type: type, exception_message: sentence } = detail;
    // A workflow that waited may fail while another one is open.
    if (type?.startsWith("InstructBrush") && node?.comfyClass === type) show(node, sentence.trim());
  });
}

function show(node, sentence) {
  remove(node);
  heights.set(node, node.size[1]);
  if (!followed.has(node)) {
    followed.add(node);
    after(node, "onSerialize", (saved) => {
      if (heights.has(node)) saved.size = [saved.size[0], heights.get(node)];
    });
  }
  const text = translateSentence(sentence);
  const shown = element("div", { class: "ib-panel ib-error", role: "alert", tabindex: 0, text });
  addPanel(node, WIDGET, shown, HEIGHT);
  node.setDirtyCanvas?.(true, true);
}

function clear() {
  for (const node of [...heights.keys()]) remove(node);
}

function remove(node) {
  const widget = widgetOf(node, WIDGET);
  if (widget) node.removeWidget(widget);
  if (heights.has(node)) node.setSize([node.size[0], heights.get(node)]);
  heights.delete(node);
}
