// Shows the images of a comparison as large as there is room: side by side, two under a slider, or two in
// turn. Zoom and pan act on all images at once.
import { Cut } from "../cut.js";
import { button, element } from "../dom.js";
import { translate } from "../translate.js";
import { ordinal } from "./events.js";
import { Zoom } from "./zoom.js";

const KEPT = "InstructBrush.Judging.View";
const MODES = {
  side: () => [translate("Side by side"), translate("All images beside each other")],
  slider: () => [translate("Slider"), translate("Two images over each other. The pointer moves the border.")],
  flicker: () => [translate("Flicker"), translate("Two images in turn, in one place")],
};

export class Viewer {
  constructor() {
    this.zoom = new Zoom(() => this.#drawZoom());
    this.row = element("div", { class: "ib-sides" });
    this.cut = new Cut(this.row, (event) => this.mode === "slider" && !event.buttons);
    this.tabs = {};
    for (const [mode, texts] of Object.entries(MODES)) {
      const [text, title] = texts();
      this.tabs[mode] = button(text, () => this.setMode(mode), { title });
    }
    this.choices = ["left", "right"].map((side) => this.#choice(side));
    this.pair = element("span", { class: "ib-view-pair" }, ...this.choices);
    const scales = [
      ["−", translate("Zoom out"), () => this.zoom.step(-1)],
      ["+", translate("Zoom in"), () => this.zoom.step(1)],
      [translate("Fit"), translate("Show whole images"), () => this.zoom.reset()],
    ].map(([text, title, act]) => button(text, act, { title, "aria-label": title }));
    const tabs = element("span", { class: "ib-view-tabs", role: "group" }, ...Object.values(this.tabs));
    tabs.setAttribute("aria-label", translate("How images are shown"));
    const zooms = element("span", { class: "ib-view-tabs" }, ...scales);
    this.tools = element("div", { class: "ib-view-tools" }, tabs, this.pair, zooms);
    this.root = element("div", { class: "ib-viewer" }, this.row, this.cut.slider, this.tools);
    this.zoom.listen(this.row, (target) => target.closest?.(".ib-frame") ?? null);
    this.mode = MODES[localStorage.getItem(KEPT)] ? localStorage.getItem(KEPT) : "side";
  }

  #choice(side) {
    const label = side === "left" ? translate("First shown image") : translate("Second shown image");
    const made = element("select", { "aria-label": label, title: label });
    made.addEventListener("change", () => this.draw());
    return made;
  }

  /** Makes places for the source and `count` images. */
  arrange(count) {
    const names = [translate("Source"), ...Array.from({ length: count }, (_, place) => ordinal(place))];
    this.images = names.map((name) => element("img", { alt: name, draggable: "false" }));
    this.sides = this.images.map((image) => {
      const frame = element("div", { class: "ib-frame" }, image);
      return element("figure", {}, frame, element("figcaption", { text: image.alt }));
    });
    this.row.replaceChildren(...this.sides, this.cut.border);
    for (const [index, choice] of this.choices.entries()) {
      choice.replaceChildren(...names.map((text, value) => element("option", { value, text })));
      choice.value = String(index + 1);
    }
    this.zoom.reset();
    this.cut.moveTo(50);
  }

  /** Shows images by their addresses; "" leaves a place empty. Returns the images that are shown. */
  show(addresses) {
    for (const [index, image] of this.images.entries()) {
      this.sides[index].dataset.empty = String(!addresses[index]);
      if (!addresses[index]) image.removeAttribute("src");
      else if (image.getAttribute("src") !== addresses[index]) image.src = addresses[index];
    }
    this.root.hidden = !addresses.some(Boolean);
    for (const choice of this.choices) {
      for (const option of choice.options) option.hidden = !addresses[option.value];
      if (addresses.length && !addresses[choice.value]) choice.value = "1";
    }
    this.draw();
    return this.images.filter((image) => image.hasAttribute("src"));
  }

  setMode(mode) {
    this.mode = mode;
    localStorage.setItem(KEPT, mode);
    this.draw();
  }

  draw() {
    const { mode } = this;
    this.root.dataset.mode = mode;
    for (const [name, tab] of Object.entries(this.tabs)) {
      tab.setAttribute("aria-pressed", String(name === mode));
    }
    const [left, right] = this.choices.map((choice) => Number(choice.value));
    for (const [index, side] of this.sides.entries()) {
      const shown = mode === "side" || index === left || index === right;
      side.hidden = side.dataset.empty === "true" || !shown;
      side.classList.toggle("ib-left", mode !== "side" && index === left);
      side.classList.toggle("ib-right", mode !== "side" && index === right && index !== left);
    }
    const beside = this.sides.filter((side) => !side.hidden).length;
    this.row.classList.toggle("ib-many", mode === "side" && beside > 4);
    this.pair.hidden = mode === "side";
    this.cut.slider.hidden = mode !== "slider";
    this.cut.border.hidden = mode !== "slider";
  }

  #drawZoom() {
    for (const image of this.images ?? []) image.style.transform = this.zoom.transform;
    this.row?.classList.toggle("ib-zoomed", this.zoom.scale > 1);
  }
}
