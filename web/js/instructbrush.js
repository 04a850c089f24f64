// InstructBrush in the front end: the live panel of the learning nodes, and text under the nodes that have something to say.
// Everything else the nodes show (previews, progress, help pages, translations) is ComfyUI's own.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addPanel, element, loadStyle, nodeOf, onResult } from "./dom.js";
import { LearningPanel } from "./learning_panel.js";

const LEARNING = ["InstructBrushLearn", "InstructBrushLearnText"];
const REMARKED = [
  "InstructBrushSave", "InstructBrushLoad", "InstructBrushUniquePhrases", "InstructBrushCaptionInit", "InstructBrushAddWords", "InstructBrushInspect",
  "InstructBrushEvaluate", "InstructBrushFindRegion", "InstructBrushCleanRegion", "InstructBrushLoadPairs", "InstructBrushMakePairs",
];

/** Those of them whose text is a table. */
const TABLED = ["InstructBrushInspect", "InstructBrushUniquePhrases", "InstructBrushEvaluate", "InstructBrushFindRegion"];

/** Widgets of the learning nodes that count only when the preset is "custom". */
const OWN_SETTINGS = [
  "tokens", "segments", "segment_mode", "steps", "batch", "learning_rate", "direction_weight", "objective", "final_learning_rate", "weighting", "include_bos",
  "text_scale", "image_scale", "noise",
];

/** node -> its panel; nodes that were deleted take their panels with them. */
const panels = new WeakMap();

/** Greys out what the chosen preset decides. */
function followPreset(node) {
  const preset = node.widgets.find((widget) => widget.name === "preset");
  const follow = () => {
    for (const widget of node.widgets) if (OWN_SETTINGS.includes(widget.name)) widget.disabled = preset.value !== "custom";
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
    loadStyle();
    api.addEventListener("instructbrush.learn", ({ detail }) => panels.get(nodeOf(detail.node))?.show(detail));
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
    } else if (REMARKED.includes(node.comfyClass)) {
      const table = TABLED.includes(node.comfyClass);
      const line = element("div", { class: `ib-panel ib-remark${table ? " ib-table" : ""}` });
      addPanel(node, "remark", line, table ? 220 : 60);
      onResult(node, ({ text }) => text && (line.textContent = text.join("\n")));
    }
  },
});
