// The panel of Apply Instruction and Edit Guider: the strength, tries of it, and when the instruction acts.
import { button, element } from "../dom.js";
import { rememberChange, setValue } from "../nodes.js";
import { translate, translateSentence } from "../translate.js";
import { MOST, factorsOf, fits } from "./noise.js";
import { firstImage, promptsOf } from "./prompts.js";
import { Results, rangeAround, runningOrder, strengthsBetween } from "./results.js";
import { Runs, showAgain } from "./runs.js";
import { follow, settingOf, unfollow } from "./settings.js";
import { StrengthSlider } from "./slider.js";
import { segmentsOf } from "./segments.js";
import { Timeline } from "./timeline.js";

/** Timeline's name of a value -> the node's input. */
const INPUTS = { start: "start_timestep", end: "end_timestep", segments: "segment_strengths" };
/** Heights in pixels of the canvas. */
const HEIGHTS = { alone: 32, whole: 102, line: 20, below: 51 };
/** Height of the results in a dialog. */
const LARGE = 110;

export class StrengthStrip {
  /**
   * `resized(growth, loading)` is called when the strip needs more or less height. `host` is the subgraph's
   * node for which the strip stands, if it stands for one only.
   */
  constructor(node, resized, host) {
    this.node = node;
    this.host = host;
    this.resized = resized;
    this.settings = {};
    /** Number of segments of the instruction; null until it is known. */
    this.segments = null;
    this.runs = null;
    /** Whether prompts are being made for the next runs. */
    this.starting = false;
    this.range = null;
    /** Number of segments asked for, to drop old answers. */
    this.asked = 0;
    this.changed = () => this.draw();
    this.slider = new StrengthSlider((value) => this.set("strength", value), rememberChange);
    this.timeline = new Timeline((name, value) => this.set(INPUTS[name], value), rememberChange);
    this.results = new Results((strength, again) => {
      this.set("strength", strength);
      rememberChange();
      if (!this.runs) again();
    });
    const press = () => (this.runs ? this.runs.stop() : this.tryFive());
    this.tryButton = button("", press, { class: "ib-try-five" });
    this.says = element("div", { class: "ib-strength-says", role: "status" });
    this.first = element("div", { class: "ib-strength-first" }, this.slider.root, this.tryButton);
    this.below = this.makeBelow();
    this.root = element(
      "div",
      { class: "ib-panel ib-strength" },
      ...[this.first, this.says, this.timeline.root, this.below],
    );
    for (const kind of ["pointerdown", "keydown", "dblclick"]) {
      this.root.addEventListener(kind, (event) => {
        if (event.target.closest("button, input")) event.stopPropagation();
      });
    }
    this.height = HEIGHTS.alone;
    this.remark = "";
    this.below.hidden = true;
    this.showRunning();
  }

  /** Results, their range, and a button that closes them. */
  makeBelow() {
    const limit = (name) => {
      const input = element("input", { type: "number", min: -4, max: 4, step: 0.25, "aria-label": name });
      input.addEventListener("change", () => {
        this.range = [this.lowest, this.highest].map((each) => Math.min(4, Math.max(-4, Number(each.value))));
        this.showRange(this.range);
      });
      return input;
    };
    this.lowest = limit(translate("Lowest strength to try"));
    this.highest = limit(translate("Highest strength to try"));
    const closeResults = () => {
      this.runs?.stop();
      this.range = null;
      this.remark = "";
      this.below.hidden = true;
      this.draw();
    };
    const named = { title: translate("Close"), "aria-label": translate("Close the results") };
    const close = button("×", closeResults, { class: "ib-try-close", ...named });
    const from = element("span", { text: translate("from") });
    const to = element("span", { text: translate("to") });
    const foot = element("div", { class: "ib-try-foot" }, from, this.lowest, to, this.highest, close);
    return element("div", { class: "ib-strength-below" }, this.results.root, foot);
  }

  showRange([lowest, highest]) {
    this.lowest.value = lowest;
    this.highest.value = highest;
  }

  get strength() {
    return Number(this.settings.strength?.widget?.value ?? 1);
  }

  /** Sets an input where it is set; this redraws the strip. */
  set(name, value) {
    const { node, widget } = this.settings[name] ?? {};
    if (widget) setValue(node, widget, value);
  }

  /** Finds again where the values are set, after links changed or while the workflow is loaded. */
  refresh(loading = false) {
    for (const name of ["strength", ...Object.values(INPUTS)]) {
      this.take(name, settingOf(this.node, name, this.host));
    }
    this.draw(loading);
    const asked = ++this.asked;
    segmentsOf(this.node).then((segments) => {
      if (asked !== this.asked || !segments || segments === this.segments) return;
      this.segments = segments;
      this.draw();
    });
  }

  /** Follows the widget that holds a value now, and the old one no longer. */
  take(name, setting) {
    const [old, now] = [this.settings[name]?.widget, setting?.widget];
    this.settings[name] = setting;
    if (old === now) return;
    if (old) unfollow(old, this.changed);
    if (now) follow(now, this.changed);
  }

  /** Shows what a run said about the instruction. */
  showResult({ segments }) {
    if (!segments) return;
    [this.segments] = segments;
    this.draw();
  }

  draw(loading = false) {
    const { strength } = this.settings;
    const input = this.node.inputs?.find((each) => each.name === "instruction");
    const used = input?.link != null;
    for (const part of [this.first, this.timeline.root]) part.hidden = !used;
    this.root.classList.toggle("ib-alone", !used);
    const linked = Boolean(strength?.linked);
    this.slider.show(this.strength, linked);
    this.slider.root.classList.toggle("ib-disabled", linked);
    this.results.mark(this.strength);
    this.drawTimeline();
    let says = this.remark;
    if (!used) says = translate("Connect an instruction to set its strength here.");
    else if (linked) says = translate("The strength comes from another node.");
    else if (!says && this.misfit) {
      const count = this.segments;
      says = translate("Segment strengths do not fit: this instruction takes {count}.", { count });
    }
    this.says.textContent = says;
    this.says.hidden = !says;
    if (!this.runs) this.tryButton.disabled = linked;
    this.measure(used, Boolean(says), loading);
  }

  /** Whether a run would refuse the segment strengths. */
  get misfit() {
    const text = this.settings[INPUTS.segments]?.widget?.value;
    return Boolean(this.segments) && !fits(text, this.segments);
  }

  drawTimeline() {
    this.timeline.root.classList.toggle("ib-misfit", this.misfit);
    const valueOf = (name, without) => this.settings[name]?.widget?.value ?? without;
    const factors = factorsOf(valueOf(INPUTS.segments, ""), this.segments ?? 1);
    const fixed = {};
    for (const [name, input] of Object.entries(INPUTS)) fixed[name] = !this.settings[input]?.widget;
    const [start, end] = [Number(valueOf(INPUTS.start, MOST)), Number(valueOf(INPUTS.end, 0))];
    this.timeline.show({ start, end, factors, fixed });
  }

  measure(used, says, loading) {
    const image = this.imageHeight();
    this.root.style.setProperty("--ib-try-height", `${image}px`);
    let height = used ? HEIGHTS.whole + (says ? HEIGHTS.line : 0) : HEIGHTS.alone;
    if (used && !this.below.hidden) height += image + HEIGHTS.below;
    const growth = height - this.height;
    this.height = height;
    if (growth) this.resized(growth, loading);
  }

  imageHeight() {
    if (this.host) return LARGE;
    return Math.round(Math.min(120, Math.max(48, (this.node.size[0] - 60) / 5)));
  }

  /** Says something below the slider, until the next try. */
  say(remark) {
    this.remark = remark;
    this.draw();
  }

  showRunning(done = 0, all = 0) {
    const running = Boolean(this.runs);
    this.tryButton.textContent = running ? translate("Cancel") : translate("Try 5");
    this.tryButton.title = running
      ? translate("{done} of {all} done", { done, all })
      : translate("Runs the graph with five strengths and shows the results side by side");
  }

  /** Runs the graph with five strengths. The widgets keep their values. */
  async tryFive() {
    if (this.starting || !this.settings.strength) return; // a deleted node has no settings
    this.starting = true;
    try {
      await this.start();
    } catch (error) {
      this.say(translateSentence(error.message));
    } finally {
      this.starting = false;
    }
  }

  async start() {
    const range = this.range ?? rangeAround(this.strength);
    const strengths = strengthsBetween(...range);
    this.showRange(range);
    this.remark = "";
    const order = runningOrder([...new Set(strengths)], this.strength);
    const made = await promptsOf(this, this.settings.strength, order);
    if (!this.settings.strength) return; // the node was deleted meanwhile
    if (!made) this.say(translate("This node does not run: it is muted or bypassed."));
    else if (!made.shown) {
      this.say(translate("No image is shown after this node. Add Preview Image behind VAE Decode."));
    } else await this.runAll(made, strengths);
  }

  async runAll({ shown, prompts }, strengths) {
    this.runs = new Runs(shown);
    this.results.begin(strengths);
    this.below.hidden = false;
    this.draw();
    let done = 0;
    this.showRunning(done, prompts.length);
    try {
      const whole = await this.runs.run(
        prompts,
        ({ strength }) => this.results.running(strength),
        ({ strength }, output) => {
          this.results.add(strength, firstImage(output, shown.side), () => showAgain(shown, output));
          this.showRunning(++done, prompts.length);
        },
      );
      if (!whole && !this.below.hidden) {
        this.remark = translate("Stopped after {done} of {all}.", { done, all: prompts.length });
      }
    } finally {
      this.runs = null;
      this.results.ended();
      this.showRunning();
      this.draw();
    }
  }

  /** Ends the runs and follows no widget any more. */
  close() {
    this.runs?.stop();
    for (const name of Object.keys(this.settings)) this.take(name, null);
  }
}
