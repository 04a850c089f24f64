// The noise axis: when the instruction acts, and how strongly in each segment. Left: much noise, where the
// layout is made. Right: little noise, where details are made.
import { element } from "../dom.js";
import { translate } from "../translate.js";
import { MOST, afterKey, clamped, placeOf, timestepAt, writeFactors } from "./noise.js";

const STEP = 0.05;

export class Timeline {
  /** `changed(name, value)` is called with "start", "end" or "segments", `settled()` when it is let go. */
  constructor(changed, settled) {
    this.changed = changed;
    this.settled = settled;
    this.state = { start: MOST, end: 0, factors: [], fixed: {} };
    this.bars = element("div", { class: "ib-noise-bars" });
    this.before = element("div", { class: "ib-noise-off" });
    this.after = element("div", { class: "ib-noise-off" });
    this.start = this.handle("start", translate("Start: the instruction acts below this timestep"));
    this.end = this.handle("end", translate("End (T): drag it left to keep more detail of the image"));
    this.axis = element(
      "div",
      { class: "ib-noise-axis" },
      ...[this.bars, this.before, this.after, this.start, this.end],
    );
    this.words = element("span", { class: "ib-noise-words" });
    const noise = element("span", { text: translate("noise") });
    const detail = element("span", { text: translate("detail") });
    const labels = element("div", { class: "ib-noise-labels" }, noise, this.words, detail);
    this.root = element("div", { class: "ib-noise" }, this.axis, labels);
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", translate("When the instruction acts"));
  }

  /** Shows { start, end, factors, fixed }: fixed names what comes from other nodes. */
  show(state) {
    this.state = state;
    const { start, end, factors, fixed } = state;
    for (const [name, handle] of Object.entries({ start: this.start, end: this.end })) {
      handle.style.left = `${placeOf(state[name])}%`;
      handle.setAttribute("aria-valuenow", state[name]);
      handle.setAttribute("aria-disabled", Boolean(fixed[name]));
      handle.tabIndex = fixed[name] ? -1 : 0;
    }
    this.before.style.width = `${placeOf(start)}%`;
    this.after.style.width = `${100 - placeOf(end)}%`;
    this.words.textContent = rangeWords(start, end);
    if (this.bars.children.length !== factors.length) this.makeBars(factors.length);
    for (const [place, bar] of [...this.bars.children].entries()) {
      const factor = factors[factors.length - 1 - place];
      bar.style.setProperty("--ib-height", `${100 * Math.min(1, Math.max(0, factor))}%`);
      bar.setAttribute("aria-valuenow", factor);
      bar.setAttribute("aria-disabled", Boolean(fixed.segments));
      bar.tabIndex = fixed.segments || factors.length < 2 ? -1 : 0;
      bar.dataset.value = factor === 1 ? "" : String(Math.round(factor * 100) / 100);
    }
  }

  /** One bar for every segment, the noisiest left. A single one cannot be dragged: that is the strength. */
  makeBars(count) {
    this.bars.replaceChildren(
      ...Array.from({ length: count }, (_, place) => {
        const segment = count - 1 - place;
        const bar = element("div", { class: "ib-noise-bar" });
        if (count < 2) return bar;
        slide(bar, 0, 1, "vertical", translate("Strength in segment {number}", { number: place + 1 }));
        bar.title = translate("Drag down for a weaker edit at this noise");
        const set = (value) => {
          if (this.state.fixed.segments) return;
          const factors = [...this.state.factors];
          factors[segment] = Math.round(Math.min(1, Math.max(0, value)) / STEP) * STEP;
          this.changed("segments", writeFactors(factors));
        };
        drag(bar, ({ y, top, height }) => set(1 - (y - top) / height), this.settled);
        keys(bar, (key) => {
          const now = Math.min(1, Math.max(0, this.state.factors[segment]));
          const moved = { ArrowUp: now + STEP, ArrowDown: now - STEP, Home: 1, End: 0 }[key];
          if (moved === undefined) return false;
          set(moved);
          this.settled();
          return true;
        });
        return bar;
      }),
    );
  }

  handle(name, title) {
    const handle = element("div", { class: `ib-noise-handle ib-noise-${name}`, title });
    slide(handle, 0, MOST, "horizontal", title);
    const set = (timestep) => {
      if (!this.state.fixed[name]) this.changed(name, clamped(name, timestep, this.state));
    };
    drag(handle, ({ x }) => {
      const { left, width } = this.axis.getBoundingClientRect();
      set(timestepAt((x - left) / width, this.state.factors.length || 1));
    }, this.settled);
    keys(handle, (key, faster) => {
      const moved = afterKey(key, this.state[name], faster);
      if (moved === undefined) return false;
      set(moved);
      this.settled();
      return true;
    });
    return handle;
  }
}

function rangeWords(start, end) {
  if (start <= end) return translate("never acts");
  if (start === MOST && end === 0) return translate("acts in all steps");
  return translate("acts from {start} to {end}", { start, end });
}

function slide(root, least, most, orientation, label) {
  const given = { role: "slider", "aria-valuemin": least, "aria-valuemax": most, "aria-label": label };
  for (const [key, value] of Object.entries(given)) root.setAttribute(key, value);
  root.setAttribute("aria-orientation", orientation);
}

/** Calls `moved` with the place of the pointer while the element is dragged. */
function drag(root, moved, settled) {
  const place = (event) => {
    const { top, height } = root.getBoundingClientRect();
    moved({ x: event.clientX, y: event.clientY, top, height });
  };
  root.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    event.stopPropagation();
    root.focus({ preventScroll: true });
    root.setPointerCapture(event.pointerId);
    place(event);
  });
  root.addEventListener("pointermove", (event) => root.hasPointerCapture(event.pointerId) && place(event));
  root.addEventListener("lostpointercapture", settled);
}

function keys(root, act) {
  root.addEventListener("keydown", (event) => {
    if (!act(event.key, event.shiftKey)) return;
    event.preventDefault();
    event.stopPropagation();
  });
}
