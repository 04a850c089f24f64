// InstructBrush in the front end: the live panel of Learn Instruction. Everything else the nodes show is ComfyUI's own.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addPanel, loadStyle, nodeOf } from "./dom.js";
import { LearningPanel } from "./learning_panel.js";

const LEARN = "InstructBrushLearn";
const PANEL_HEIGHT = 170;

/** node -> its panel; nodes that were deleted take their panels with them. */
const panels = new WeakMap();

app.registerExtension({
  name: "InstructBrush.Learning",

  setup() {
    loadStyle();
    api.addEventListener("instructbrush.learn", ({ detail }) => panels.get(nodeOf(detail.node))?.show(detail));
    api.addEventListener("executing", ({ detail }) => {
      const node = detail == null ? null : nodeOf(detail);
      panels.get(node)?.clear();
    });
  },

  nodeCreated(node) {
    if (node.comfyClass !== LEARN) return;
    const panel = new LearningPanel();
    panels.set(node, panel);
    addPanel(node, "learning", panel.root, PANEL_HEIGHT);
    const before = node.onExecuted;
    node.onExecuted = function (output) {
      before?.call(this, output);
      const whole = output?.learning?.[0];
      if (whole) panel.show({ ...whole, first: 0 });
    };
  },
});
