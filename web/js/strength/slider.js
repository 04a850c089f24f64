// The large slider of the strength, with marks at 0 (nothing changes) and 1 (as learned).
import { element } from "../dom.js";
import { translate } from "../translate.js";

const STEP = 0.05;
/** What a slider spans before a value beyond it was set. */
const SPAN = [-1, 2];
const MARKS = [-1, 0, 1, 2];

/** A number without unneeded digits: 0.5, 1, -0.35 */
export function shortest(value) {
  return String(Math.round(value * 1000) / 1000);
}

export class StrengthSlider {
  /** `changed(value)` is called while it is dragged, `settled()` when it is let go. */
  constructor(changed, settled) {
    this.range = element("input", { type: "range", class: "ib-strength-range", step: STEP });
    this.range.setAttribute("aria-label", translate("Strength of the instruction"));
    this.range.addEventListener("input", () => changed(Number(this.range.value)));
    this.range.addEventListener("change", settled);
    this.marks = element("div", { class: "ib-strength-marks", "aria-hidden": "true" });
    this.value = element("output", { class: "ib-strength-value" });
    const track = element("div", { class: "ib-strength-track" }, this.range, this.marks);
    this.root = element("div", { class: "ib-strength-slider" }, track, this.value);
    this.span = [];
  }

  show(value, disabled) {
    const span = [Math.min(SPAN[0], Math.floor(value)), Math.max(SPAN[1], Math.ceil(value))];
    if (String(span) !== String(this.span)) this.setSpan(span);
    this.range.value = value;
    this.range.disabled = disabled;
    this.range.setAttribute("aria-valuetext", `${shortest(value)}, ${meaning(value)}`);
    const [zero, now] = [0, value].map((each) => this.placeOf(each));
    this.root.style.setProperty("--ib-from-part", Math.min(zero, now));
    this.root.style.setProperty("--ib-to-part", Math.max(zero, now));
    // A value that comes from another node is known there only.
    this.value.textContent = disabled ? "–" : shortest(value);
    this.value.title = disabled ? "" : meaning(value);
  }

  setSpan(span) {
    this.span = span;
    [this.range.min, this.range.max] = span;
    const inside = MARKS.filter((mark) => mark >= span[0] && mark <= span[1]);
    this.marks.replaceChildren(
      ...inside.map((mark) => {
        const main = mark === 0 || mark === 1;
        const made = element("span", { text: String(mark), class: main ? "ib-main" : "" });
        made.style.setProperty("--ib-at", this.placeOf(mark));
        return made;
      }),
    );
  }

  /** The place of a value between 0 (left) and 1. */
  placeOf(value) {
    return (value - this.span[0]) / (this.span[1] - this.span[0]);
  }
}

function meaning(value) {
  if (value === 0) return translate("no change by the instruction");
  if (value === 1) return translate("as learned");
  if (value < 0) return translate("the opposite");
  return value < 1 ? translate("weaker") : translate("exaggerated");
}
