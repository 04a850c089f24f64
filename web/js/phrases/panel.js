// The chips of Unique Phrases: each phrase with two bars for how well it fits the images before and after. A
// click takes it or leaves it; the output follows with the next run.
import { button, element } from "../dom.js";
import { translate } from "../translate.js";
import { lengthOf, parseChoice, wordsOf, writeChoice } from "./choice.js";

const SIDES = {
  before: () => translate("Fits the images before"),
  after: () => translate("Fits the images after"),
};

export class PhrasesPanel {
  /** @param keep stores the choice, "" for none, in the node */
  constructor(keep) {
    this.keep = keep;
    /** The last run's phrases, with the user's changes since. */
    this.phrases = [];
    /** Whether the choice differs from what the last run used. */
    this.changed = false;
    this.words = element("div", { class: "ib-phrases-words", role: "status" });
    this.says = element("div", { class: "ib-phrases-says" });
    this.chips = element("div", { class: "ib-phrases-chips", "data-capture-wheel": "true" });
    this.auto = button("", () => this.reset());
    this.legend = element("div", { class: "ib-phrases-legend" });
    const foot = element("div", { class: "ib-phrases-foot" }, this.legend, this.auto);
    const parts = [this.words, this.says, this.chips, foot];
    this.root = element("div", { class: "ib-panel ib-phrases" }, ...parts);
    this.says.textContent = translate("Run the graph to find phrases.");
    this.auto.hidden = true;
  }

  /** Shows the phrases of a run. `chosen` is the node's choice now, which may differ from that of the run. */
  show(data, chosen) {
    this.data = data;
    this.phrases = data.phrases.map((each) => ({ ...each }));
    this.byUser = data.by_user;
    this.changed = false;
    this.#follow(parseChoice(chosen));
    this.auto.textContent = translate("Choose automatically");
    this.auto.title = translate("Forgets your choice. The next run takes the best phrases.");
    const bar = (side) => element("i", { class: `ib-phrases-bar ib-${side}` });
    this.legend.replaceChildren(bar("before"), translate("before"), bar("after"), translate("after"));
    this.chips.replaceChildren(...Object.keys(SIDES).map((side) => this.#group(side)));
    this.draw();
  }

  /** Takes over a choice that was made while the node ran, or that undo has brought back. */
  #follow(choice) {
    const takes = ({ side, text }) => Boolean(choice?.[side].includes(text));
    const { by_user, gone } = this.data;
    if (!choice) this.changed = by_user;
    else if (by_user) this.changed = this.phrases.some((each) => takes(each) !== each.taken);
    else this.changed = !gone.length || this.phrases.some(takes);
    if (!this.changed) return;
    this.byUser = Boolean(choice);
    if (choice) for (const each of this.phrases) each.taken = takes(each);
  }

  #group(side) {
    // Phrases that fit the other side better say nothing about this one.
    const telling = ({ sensitivity, taken }) => sensitivity > 0 || taken;
    const own = this.phrases.filter((each) => each.side === side && telling(each));
    own.sort((one, other) => other.sensitivity - one.sensitivity);
    const name = SIDES[side]();
    const chips = own.map((each) => (each.chip = this.#chip(each)));
    const row = element("div", { class: "ib-phrases-row", role: "group", "aria-label": name }, ...chips);
    return element("section", {}, element("h4", { text: name }), row);
  }

  #chip(phrase) {
    const bars = ["before", "after"].map((side) => {
      const bar = element("i", { class: `ib-phrases-bar ib-${side}` });
      bar.style.width = `${100 * lengthOf(phrase[side], this.phrases)}%`;
      return bar;
    });
    const weak = phrase.weak ? [element("small", { text: translate("weak") })] : [];
    const text = element("span", { text: phrase.text });
    const top = element("span", { class: "ib-phrases-text" }, text, ...weak);
    const chip = button("", () => this.toggle(phrase), { class: "ib-phrases-chip" });
    chip.append(top, ...bars);
    chip.title = translate("Fit before {before}, after {after}. Difference {difference}, needed {eta}.", {
      before: phrase.before.toFixed(2),
      after: phrase.after.toFixed(2),
      difference: phrase.sensitivity.toFixed(2),
      eta: Number(this.data.eta.toPrecision(3)),
    });
    chip.classList.toggle("ib-weak", phrase.weak);
    return chip;
  }

  toggle(phrase) {
    phrase.taken = !phrase.taken;
    this.byUser = true;
    this.changed = true;
    this.keep(writeChoice(this.phrases));
    this.draw();
  }

  /** Forgets the user's choice. */
  reset() {
    this.byUser = false;
    this.changed = true;
    this.keep("");
    this.chips.querySelector("button")?.focus({ preventScroll: true });
    this.draw();
  }

  draw() {
    for (const { chip, taken } of this.phrases) chip?.setAttribute("aria-pressed", String(taken));
    const left = this.changed && !this.byUser;
    const words = this.changed ? wordsOf(this.phrases) : this.data.init_text;
    this.words.textContent = left ? translate("Run to choose again") : words || translate("No words");
    this.words.classList.toggle("ib-none", left || !words);
    const says = this.#sentences(words).join(" ");
    this.says.textContent = says;
    this.says.classList.toggle("ib-warning", this.data.gone.length > 0 && !this.changed);
    this.auto.hidden = !this.byUser;
  }

  #sentences(words) {
    const taken = this.phrases.filter((each) => each.taken);
    if (this.changed && !this.byUser) return [translate("Your choice is forgotten.")];
    const sentences = [];
    const gone = this.changed ? [] : this.data.gone;
    if (gone.length) {
      sentences.push(translate("No longer among the phrases: {phrases}.", { phrases: gone.join(", ") }));
    }
    if (this.byUser) sentences.push(translate("Your choice."));
    if (this.changed) sentences.push(translate("Run to use it."));
    if (!words) {
      const some = taken.length > 0 || this.byUser;
      sentences.push(
        some
          ? translate("Take a phrase that fits the images after.")
          : translate("Nothing tells the images apart clearly. Take a phrase, or write words yourself."),
      );
    } else if (!this.byUser && taken.some((each) => each.side === "after" && each.weak)) {
      sentences.push(
        translate("A weak phrase: it hardly tells the images apart. Look whether it makes sense."),
      );
    } else if (!sentences.length) sentences.push(translate("Click phrases to take or leave them."));
    return sentences;
  }
}
