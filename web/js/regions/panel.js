// The panel of Find Region: the image with boxes and scores, a slider for the score, and what the next run
// will return. The finder has found all boxes at once, so the slider needs no run.
import { button, element } from "../dom.js";
import { viewOf } from "../server.js";
import { translate, translateSentence } from "../translate.js";
import { Boxes } from "./boxes.js";
import { keptKeys, parseSelection, toggle, writeSelection } from "./choice.js";

const AUTO = -1;
const LEAST = 0.05;

export class RegionPanel {
  /**
   * @param fields what the panel reads and writes: `get(name)`, `set(name, value)`, `linked(name)`, and
   *   `settled()` after a change that undo takes back
   */
  constructor(fields) {
    this.fields = fields;
    this.page = 0;
    this.boxes = new Boxes((object) => this.#toggle(object));
    this.words = element("div", { class: "ib-region-words", role: "status" });
    this.words.textContent = translate("Run the graph to find regions.");
    this.back = button("‹", () => this.#turn(-1));
    this.on = button("›", () => this.#turn(1));
    this.pageText = element("span", { class: "ib-region-page" });
    this.pages = element("div", { class: "ib-region-pages" }, this.back, this.pageText, this.on);
    this.slider = element("input", { type: "range", min: LEAST, max: 1, step: 0.01 });
    this.value = element("output", {});
    this.auto = button("", () => this.#chooseThreshold(AUTO));
    this.label = element("span", {});
    const slide = element("label", { class: "ib-region-slider" }, this.label, this.slider, this.value);
    this.clear = button("", () => this.#clear());
    this.foot = element("div", { class: "ib-region-foot" }, slide, this.auto);
    const top = element("div", { class: "ib-region-top" }, this.words, this.clear, this.pages);
    this.says = element("div", { class: "ib-region-says" });
    const parts = [top, this.says, this.boxes.root, this.foot];
    this.root = element("div", { class: "ib-panel ib-region" }, ...parts);
    this.slider.addEventListener("input", () => this.#setThreshold(Number(this.slider.value)));
    this.slider.addEventListener("change", () => this.fields.settled());
    for (const part of [this.boxes.root, this.foot, this.pages, this.clear]) part.hidden = true;
  }

  /** Shows the output of a run. */
  show(data) {
    this.data = data;
    this.page = Math.max(0, Math.min(this.page, data.objects.length - 1));
    this.#rememberWords();
    this.label.textContent = translate("Least score");
    this.slider.setAttribute("aria-label", translate("Least score of a box"));
    this.auto.textContent = translate("auto");
    this.auto.title = translate("The finder's own value, {value}", { value: data.own_threshold });
    this.clear.textContent = translate("Reset choices");
    this.clear.title = translate("Keeps the boxes by their scores alone");
    this.back.setAttribute("aria-label", translate("Previous image"));
    this.on.setAttribute("aria-label", translate("Next image"));
    this.boxes.root.hidden = false;
    this.foot.hidden = false;
    this.slider.disabled = this.fields.linked("box_threshold");
    this.auto.hidden = this.slider.disabled;
    this.#showPage();
  }

  /** Remembers the threshold of words of this run, and the user's own: a panel may have lowered the first. */
  #rememberWords() {
    const now = this.fields.get("text_threshold");
    const low = now === this.fields.get("box_threshold") && now < this.data.own_threshold;
    if (this.own_words === undefined && low) {
      // A panel before this one, which undo has made anew, has lowered both.
      this.lowered = now;
      this.own_words = AUTO;
    } else if (now !== this.lowered) this.own_words = now;
    this.words_threshold = now;
  }

  /** Whether another run is needed. */
  get changed() {
    const { threshold } = this.limits;
    return threshold !== this.data.threshold || this.fields.get("selection") !== this.data.selection;
  }

  #turn(by) {
    const count = this.data.objects.length;
    this.page = (this.page + by + count) % count;
    this.#showPage();
  }

  #showPage() {
    const { images, objects, count } = this.data;
    const file = images[this.page];
    const name = translate("Image {number} of {count}", { number: this.page + 1, count });
    this.objects = objects[this.page] ?? [];
    this.boxes.show({ source: file ? viewOf(file) : "", name }, this.data, this.objects);
    this.pages.hidden = objects.length < 2;
    this.pageText.textContent = name;
    this.draw();
  }

  get selection() {
    return parseSelection(this.fields.get("selection"));
  }

  /** What decides which boxes are kept. A value that comes by wire is that of the last run. */
  get limits() {
    const { threshold, own_threshold, most } = this.data;
    if (this.fields.linked("box_threshold")) return { threshold, most };
    const given = this.fields.get("box_threshold");
    return { threshold: given === AUTO ? own_threshold : given, most };
  }

  #toggle({ key }) {
    const { selection } = this;
    toggle(this.objects, this.limits, selection, key);
    this.fields.set("selection", writeSelection(selection));
    this.fields.settled();
    this.draw();
  }

  #clear() {
    this.fields.set("selection", "");
    this.fields.settled();
    this.boxes.layer.querySelector("button")?.focus({ preventScroll: true });
    this.draw();
  }

  #chooseThreshold(value) {
    this.#setThreshold(value);
    this.fields.settled();
  }

  #setThreshold(value) {
    this.fields.set("box_threshold", value);
    // No box has a lower score than its words. A lower value looks for weaker words, too.
    const { least } = this.data;
    const weaker = value !== AUTO && value < least;
    if (!this.fields.linked("text_threshold")) {
      const usual = value === AUTO ? this.own_words : this.words_threshold;
      this.fields.set("text_threshold", weaker ? value : usual);
      if (weaker) this.lowered = this.fields.get("text_threshold");
    }
    this.draw();
  }

  /** Follows a value that the user changed in the node. */
  followed(name) {
    if (name === "text_threshold") this.own_words = this.words_threshold = this.fields.get(name);
    this.draw();
  }

  /** Draws again what depends on the node's values. */
  draw() {
    if (!this.data) return;
    const { selection, limits, data, changed } = this;
    const kept = keptKeys(this.objects, limits, selection);
    this.boxes.mark(kept, selection);
    this.slider.value = limits.threshold;
    this.value.textContent = limits.threshold.toFixed(2);
    const count = kept.size;
    const all = this.objects.length;
    this.words.textContent =
      all === 0
        ? translate("Nothing was found")
        : translate("{count} of {all} boxes kept", { count, all });
    const sentences = [];
    if (limits.threshold < data.least) {
      sentences.push(translate("Run to look for boxes below {least}.", { least: data.least.toFixed(2) }));
    } else if (changed) sentences.push(translate("Run to use this choice."));
    else if (all) sentences.push(translate("Click a box to leave it out or to include it."));
    else sentences.push(translate("Lower the least score and run again, or use other words."));
    if (data.gone && !changed) {
      sentences.unshift(translate("{count} clicked boxes are no longer found.", { count: data.gone }));
    }
    sentences.unshift(...data.remarks.map(translateSentence));
    this.says.textContent = sentences.join(" ");
    this.says.classList.toggle("ib-warning", Boolean(data.remarks.length || (data.gone && !changed)));
    this.clear.hidden = !selection.out.size && !selection.in.size;
  }
}
