// The previewed pair: before, now and goal under their names, and a scrubber through all edits of the run.
import { element } from "../dom.js";
import { keepPointer } from "../panels.js";
import { translate } from "../translate.js";

const MOST = 60;

/** Leaves out every second preview, but never the last one, until there are few enough. */
export function thinned(previews, most = MOST) {
  let kept = previews;
  while (kept.length > most) {
    kept = [...kept.slice(0, -1).filter((_, i) => i % 2 === 0), kept.at(-1)];
  }
  return kept;
}

export class Previews {
  constructor() {
    this.before = figure(translate("before"), translate("The image before the edit"));
    this.now = figure(translate("now"), translate("The image, edited by what is learned so far"));
    this.goal = figure(translate("goal"), translate("The image after the edit"));
    this.row = element("div", { class: "ib-trio" }, this.before.root, this.now.root, this.goal.root);
    this.slider = element("input", { type: "range", min: 0, max: 0, value: 0, class: "ib-scrubber" });
    this.slider.setAttribute("aria-label", translate("Step of the preview"));
    this.slider.addEventListener("input", () => this.choose(Number(this.slider.value)));
    // A node is dragged by its surface, a slider by its thumb.
    keepPointer(this.slider);
    this.slider.addEventListener("wheel", (event) => event.stopPropagation());
    this.root = element("div", { class: "ib-previews" }, this.row, this.slider);
    this.clear();
  }

  clear() {
    this.all = [];
    this.follows = true;
    for (const each of [this.before, this.now, this.goal]) setImage(each, "");
    this.now.caption.textContent = translate("now");
    this.root.hidden = true;
    this.slider.hidden = true;
  }

  setPair([before, goal]) {
    setImage(this.before, before);
    setImage(this.goal, goal);
    this.root.hidden = false;
  }

  /** Adds the edit after a step, in place of an older one of the same step. */
  add(step, image) {
    this.set([...this.all.filter(([known]) => known !== step), [step, image]]);
  }

  /** Adds the edits that are missing. */
  complete(all) {
    const known = new Map([...all, ...this.all]);
    this.set([...known].sort(([a], [b]) => a - b));
  }

  /** Replaces all edits, each [step, image], oldest first. */
  set(all) {
    this.all = thinned(all);
    if (!this.all.length) return;
    this.root.hidden = false;
    const chosen = this.follows ? this.all.length - 1 : Math.min(this.at, this.all.length - 1);
    this.slider.hidden = this.all.length < 2;
    this.slider.max = this.all.length - 1;
    this.slider.value = chosen;
    this.show(chosen);
  }

  /** Shows one edit; new ones are followed again from the last one. */
  choose(place) {
    this.follows = place === this.all.length - 1;
    this.show(place);
  }

  show(place) {
    this.at = place;
    const [step, image] = this.all[place];
    setImage(this.now, image);
    const words = translate("step {step}", { step });
    this.now.caption.textContent = this.follows ? translate("now") : words;
    this.slider.setAttribute("aria-valuetext", words);
  }
}

function figure(name, alt) {
  const image = element("img", { alt });
  const caption = element("figcaption", { text: name });
  return { root: element("figure", {}, image, caption), image, caption };
}

function setImage({ image }, source) {
  image.hidden = !source;
  if (source) image.src = source;
  else image.removeAttribute("src");
}
