// Shows the sentence of an error in the node that failed. ComfyUI itself only says that a node failed.
import { api } from "../../../scripts/api.js";
import { element, loadStyle } from "./dom.js";
import { nodeOf } from "./graph.js";
import { after, widgetOf } from "./nodes.js";
import { addPanel, isForeign } from "./panels.js";
import { translateSentence } from "./translate.js";

const WIDGET = "instructbrush_error";
const HEIGHT = 100;
/** How late the Vue renderer measures a node, in ms. */
const MEASURED = 300;

/** Node that shows an error -> { growth }: how much higher the error made it. */
const growths = new Map();

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
    const own = node?.comfyClass === type && !isForeign(detail.prompt_id);
    if (own && type?.startsWith("InstructBrush")) show(node, sentence.trim());
  });
}

function show(node, sentence) {
  remove(node);
  if (!followed.has(node)) {
    followed.add(node);
    after(node, "onSerialize", (saved) => {
      if (growths.has(node)) saved.size = [saved.size[0], saved.size[1] - growths.get(node).growth];
    });
  }
  const text = translateSentence(sentence);
  const shown = element("div", { class: "ib-panel ib-error", role: "alert", tabindex: 0, text });
  const before = node.size[1];
  addPanel(node, WIDGET, shown, HEIGHT);
  const measured = { growth: node.size[1] - before };
  growths.set(node, measured);
  setTimeout(() => (measured.growth = node.size[1] - before), MEASURED);
  node.setDirtyCanvas?.(true, true);
}

function clear() {
  for (const node of [...growths.keys()]) remove(node);
}

function remove(node) {
  const widget = widgetOf(node, WIDGET);
  if (widget) node.removeWidget(widget);
  // The user may have made the node higher or lower meanwhile.
  if (growths.has(node)) node.setSize([node.size[0], node.size[1] - growths.get(node).growth]);
  growths.delete(node);
}
