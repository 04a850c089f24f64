// Adds chips to Unique Phrases nodes.
import { app } from "../../../../scripts/app.js";
import { addPanel, loadStyle, onResult } from "../dom.js";
import { PhrasesPanel } from "./panel.js";

const NODE = "InstructBrushUniquePhrases";
const HEIGHT = 330;
const WIDTH = 380;

export function addPhrases(node) {
  if (node.comfyClass !== NODE) return;
  loadStyle("phrases");
  const panel = new PhrasesPanel((choice) => {
    node.widgets.find((widget) => widget.name === "chosen").value = choice;
    app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
  });
  // Otherwise a click drags the node.
  panel.root.addEventListener("pointerdown", (event) => event.stopPropagation());
  node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
  addPanel(node, "phrase_chips", panel.root, HEIGHT);
  onResult(node, ({ phrases }) => phrases && panel.show(phrases[0]));
}
