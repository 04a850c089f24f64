// Adds the overlay of boxes to Find Region nodes.
import { app } from "../../../../scripts/app.js";
import { addPanel, loadStyle, onResult } from "../dom.js";
import { RegionPanel } from "./panel.js";

const NODE = "InstructBrushFindRegion";
const HEIGHT = 420;
const WIDTH = 400;

export function addRegionOverlay(node) {
  if (node.comfyClass !== NODE) return;
  loadStyle("regions");
  const widget = (name) => node.widgets?.find((each) => each.name === name);
  let writing = false;
  const panel = new RegionPanel({
    get: (name) => widget(name)?.value,
    linked: (name) =>
      Boolean(node.inputs?.some((each) => (each.widget?.name ?? each.name) === name && each.link != null)),
    set(name, value) {
      if (widget(name).value === value) return;
      writing = true;
      widget(name).value = value;
      widget(name).callback?.(value, app.canvas, node);
      writing = false;
      node.graph?.setDirtyCanvas?.(true, true);
      app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
    },
  });
  for (const name of ["box_threshold", "text_threshold"]) {
    const before = widget(name).callback;
    widget(name).callback = function (...given) {
      const answer = before?.apply(this, given);
      if (!writing) panel.followed(name);
      return answer;
    };
  }
  // Otherwise a click drags the node.
  panel.root.addEventListener("pointerdown", (event) => event.stopPropagation());
  node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
  addPanel(node, "region_boxes", panel.root, HEIGHT);
  onResult(node, ({ region }) => region && panel.show(region[0]));
}
