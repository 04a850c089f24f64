// Core's Compare Images has no display in the classic renderer. There it gets one: two images under a slider.
import { Cut } from "./cut.js";
import { button, element, loadStyle } from "./dom.js";
import { addPanel, onResult } from "./panels.js";
import { viewOf } from "./server.js";
import { translate } from "./translate.js";

const NODE = "ImageCompare";
const HEIGHT = 130;

/** Adds the display to a Compare Images node, unless the renderer has its own. */
export function addComparison(node) {
  if (node.comfyClass !== NODE || LiteGraph.vueNodesMode) return;
  loadStyle("judging");
  for (const widget of node.widgets ?? []) widget.hidden = true; // it says that it needs the other renderer
  const comparison = new Comparison();
  const panel = addPanel(node, "comparison", comparison.root, HEIGHT);
  panel.options.getMaxHeight = () => Number.MAX_SAFE_INTEGER;
  onResult(node, (output) => comparison.show(output));
}

class Comparison {
  constructor() {
    this.images = ["left", "right"].map(() => element("img", { alt: "", draggable: "false" }));
    const sides = this.images.map((image, index) => {
      const frame = element("div", { class: "ib-frame" }, image);
      return element("figure", { class: index ? "ib-right" : "ib-left" }, frame);
    });
    this.row = element("div", { class: "ib-sides" }, ...sides);
    this.cut = new Cut(this.row);
    this.row.append(this.cut.border);
    this.place = element("span");
    this.steps = element(
      "div",
      { class: "ib-view-tools" },
      button("‹", () => this.go(-1), { "aria-label": translate("Previous image") }),
      this.place,
      button("›", () => this.go(1), { "aria-label": translate("Next image") }),
    );
    this.root = element("div", { class: "ib-panel ib-viewer", "data-mode": "slider" });
    this.root.append(this.row, this.cut.slider, this.steps);
    this.show({});
  }

  /** Shows the node's output: files of the first and of the second image input. */
  show({ a_images: first = [], b_images: second = [] }) {
    this.lists = [first, second];
    this.at = 0;
    this.go(0);
  }

  go(by) {
    const count = Math.max(...this.lists.map((list) => list.length));
    this.at = count ? (this.at + by + count) % count : 0;
    for (const [index, list] of this.lists.entries()) {
      const file = list[Math.min(this.at, list.length - 1)];
      if (file) this.images[index].src = viewOf(file);
      else this.images[index].removeAttribute("src");
    }
    for (const part of [this.row, this.cut.slider]) part.style.visibility = count ? "" : "hidden";
    this.place.textContent = `${this.at + 1} / ${count}`;
    this.steps.style.display = count < 2 ? "none" : "";
  }
}
