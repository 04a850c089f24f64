// Shows the sentence of an error in the node that failed. ComfyUI itself only says that a node failed.
import { api } from "../../../scripts/api.js";
import { addPanel, element, loadStyle, nodeOf } from "./dom.js";
import { translateSentence } from "./translate.js";

const WIDGET = "instructbrush_error";
const HEIGHT = 100;

/** Node -> its height before the error was shown. */
const heights = new Map();

/** Shows errors of this pack's nodes until the next run. */
export function showErrors() {
  loadStyle("errors");
  api.addEventListener("execution_start", clear);
  api.addEventListener("execution_error", ({ detail }) => {
    const node = nodeOf(detail.node_id);
    if (node?.comfyClass?.startsWith("InstructBrush")) show(node, detail.exception_message.trim());
  });
}

function show(node, sentence) {
  remove(node);
  heights.set(node, node.size[1]);
  const text = translateSentence(sentence);
  const shown = element("div", { class: "ib-panel ib-error", role: "alert", tabindex: 0, text });
  addPanel(node, WIDGET, shown, HEIGHT);
  node.setDirtyCanvas?.(true, true);
}

function clear() {
  for (const node of [...heights.keys()]) remove(node);
}

function remove(node) {
  const widget = node.widgets?.find((each) => each.name === WIDGET);
  if (widget) node.removeWidget(widget);
  if (heights.has(node)) node.setSize([node.size[0], heights.get(node)]);
  heights.delete(node);
}
