// The border between two images that lie over each other. A slider and the pointer move it.
import { element } from "./dom.js";
import { translate } from "./translate.js";

export class Cut {
  /** `row` holds the images. `follows(event)` tells whether the border goes where the pointer is. */
  constructor(row, follows = () => true) {
    this.row = row;
    this.slider = element("input", { type: "range", class: "ib-cut", min: 0, max: 100, step: 1 });
    this.slider.setAttribute("aria-label", translate("Border between the two images"));
    this.slider.addEventListener("input", () => this.moveTo(Number(this.slider.value)));
    this.border = element("div", { class: "ib-cut-border" });
    row.addEventListener("pointermove", (event) => {
      const { left, width } = row.getBoundingClientRect();
      if (width && follows(event)) this.moveTo((100 * (event.clientX - left)) / width);
    });
    this.moveTo(50);
  }

  moveTo(percent) {
    const at = Math.min(100, Math.max(0, percent));
    this.slider.value = String(at);
    this.row.style.setProperty("--cut", `${at}%`);
  }
}
