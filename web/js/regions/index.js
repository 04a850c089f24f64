// Adds the overlay of boxes to Find Region nodes.
import { loadStyle } from "../dom.js";
import { after, isLinked, rememberChange, setValue, widgetOf } from "../nodes.js";
import { addPanel, keepPointer, onResult } from "../panels.js";
import { RegionPanel } from "./panel.js";

const NODE = "InstructBrushFindRegion";
const HEIGHT = 420;
const WIDTH = 400;

/** Adds the overlay to a Find Region node. */
export function addRegionOverlay(node) {
  if (node.comfyClass !== NODE) return;
  loadStyle("regions");
  let writing = false;
  const panel = new RegionPanel({
    get: (name) => widgetOf(node, name)?.value,
    linked: (name) => isLinked(node, name),
    set(name, value) {
      const widget = widgetOf(node, name);
      if (widget.value === value) return;
      writing = true;
      setValue(node, widget, value);
      writing = false;
    },
    settled: rememberChange,
  });
  for (const name of ["box_threshold", "text_threshold"]) {
    after(widgetOf(node, name), "callback", () => writing || panel.followed(name));
  }
  keepPointer(panel.root);
  node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
  addPanel(node, "region_boxes", panel.root, HEIGHT);
  onResult(node, ({ region }) => region && panel.show(region[0]));
}
