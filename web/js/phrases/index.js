// Adds chips to Unique Phrases nodes.
import { loadStyle } from "../dom.js";
import { rememberChange, widgetOf } from "../nodes.js";
import { addPanel, keepPointer, onResult } from "../panels.js";
import { PhrasesPanel } from "./panel.js";

const NODE = "InstructBrushUniquePhrases";
const HEIGHT = 330;
const WIDTH = 380;

/** Adds the chips to a Unique Phrases node. */
export function addPhrases(node) {
  if (node.comfyClass !== NODE) return;
  loadStyle("phrases");
  const panel = new PhrasesPanel((choice) => {
    widgetOf(node, "chosen").value = choice;
    rememberChange();
  });
  keepPointer(panel.root);
  node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
  addPanel(node, "phrase_chips", panel.root, HEIGHT);
  onResult(node, ({ phrases }) => phrases && panel.show(phrases[0], widgetOf(node, "chosen").value));
}
