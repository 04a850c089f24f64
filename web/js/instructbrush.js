// The front-end extension: the live panel of the learning nodes, and text output in other nodes.
// ComfyUI itself shows previews, progress, help pages and translations.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addPanel, element, loadStyle, nodeOf, onResult } from "./dom.js";
import { LearningPanel } from "./learning_panel.js";

const LEARNING = ["InstructBrushLearn", "InstructBrushLearnText", "InstructBrushLearnAdapter"];

/** Nodes that show their text output. */
const WITH_TEXT = [
  "InstructBrushSave",
  "InstructBrushLoad",
  "InstructBrushUniquePhrases",
  "InstructBrushCaptionInit",
  "InstructBrushAddWords",
  "InstructBrushInspect",
  "InstructBrushEvaluate",
  "InstructBrushFindRegion",
  "InstructBrushFindEditedObject",
  "InstructBrushCleanRegion",
  "InstructBrushExplain",
  "InstructBrushEditBySteps",
  "InstructBrushLoadPairs",
  "InstructBrushMakePairs",
];

/** Nodes of WITH_TEXT whose text is a table. */
const WITH_TABLE = [
  "InstructBrushInspect",
  "InstructBrushUniquePhrases",
  "InstructBrushEvaluate",
  "InstructBrushFindRegion",
  "InstructBrushFindEditedObject",
];

/** Widgets of the learning nodes that are used only with the preset "custom". */
const CUSTOM_SETTINGS = [
  "tokens",
  "segments",
  "segment_mode",
  "steps",
  "batch",
  "learning_rate",
  "direction_weight",
  "objective",
  "final_learning_rate",
  "weighting",
  "include_bos",
  "text_scale",
  "image_scale",
  "noise",
];

/** Node -> its panel. */
const panels = new WeakMap();

/** Disables the widgets whose values come from the selected preset. */
function followPreset(node) {
  const preset = node.widgets.find((widget) => widget.name === "preset");
  const follow = () => {
    for (const widget of node.widgets) {
      if (CUSTOM_SETTINGS.includes(widget.name)) widget.disabled = preset.value !== "custom";
    }
  };
  const before = preset.callback;
  preset.callback = function (...given) {
    before?.apply(this, given);
    follow();
  };
  follow();
  return follow;
}

app.registerExtension({
  name: "InstructBrush",

  setup() {
    loadStyle("panels");
    api.addEventListener("instructbrush.learn", ({ detail }) => {
      panels.get(nodeOf(detail.node))?.show(detail);
    });
    api.addEventListener("executing", ({ detail }) => {
      if (detail != null) panels.get(nodeOf(detail))?.clear();
    });
  },

  nodeCreated(node) {
    if (LEARNING.includes(node.comfyClass)) {
      const panel = new LearningPanel();
      panels.set(node, panel);
      addPanel(node, "learning", panel.root, 270);
      const follow = followPreset(node);
      const configured = node.onConfigure;
      node.onConfigure = function (...given) {
        configured?.apply(this, given);
        follow();
      };
      onResult(node, ({ learning }) => learning && panel.show({ ...learning[0], first: 0 }));
    } else if (WITH_TEXT.includes(node.comfyClass)) {
      const table = WITH_TABLE.includes(node.comfyClass);
      const line = element("div", { class: `ib-panel ib-remark${table ? " ib-table" : ""}` });
      addPanel(node, "remark", line, table ? 220 : 60);
      onResult(node, ({ text }) => text && (line.textContent = text.join("\n")));
    }
  },
});
