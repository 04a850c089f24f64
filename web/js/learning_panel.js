// The panel of the learning nodes: step, time left, loss curve, and the current edit of the held-out pair.
import { element } from "./dom.js";
import { brief, LossChart, smooth } from "./loss_chart.js";

/** Formats seconds: 95 -> "1:35". */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export class LearningPanel {
  constructor() {
    this.chart = new LossChart();
    this.bar = element("progress", { class: "ib-bar", max: 1, value: 0 });
    this.words = element("div", { class: "ib-words", text: "Not run yet" });
    const alt = "Held-out pair: before, edited so far, after";
    this.image = element("img", { class: "ib-image", alt, hidden: "" });
    this.root = element("div", { class: "ib-panel" }, this.words, this.bar, this.chart.root, this.image);
    this.losses = [];
  }

  /**
   * Shows a message of the run. `losses` are those since the last message, and `first` is the number of steps
   * before them, so that a lost message does no harm.
   */
  show({ step, total, losses = [], first = this.losses.length, seconds_left, preview, state }) {
    this.losses.length = Math.min(this.losses.length, first);
    this.losses.push(...losses);
    this.bar.max = total;
    this.bar.value = step;
    const parts = [`${step} / ${total}`];
    if (this.losses.length) parts.push(`loss ${brief(smooth(this.losses).at(-1))}`);
    if (step < total && Number.isFinite(seconds_left)) parts.push(`${clock(seconds_left)} left`);
    if (state) parts.push(state);
    this.words.textContent = parts.join(" · ");
    this.chart.draw(this.losses, total);
    if (preview) {
      this.image.src = preview;
      this.image.hidden = false;
    }
  }

  /** Removes what the last run showed. */
  clear() {
    this.losses = [];
    this.image.hidden = true;
    this.image.removeAttribute("src");
    this.bar.value = 0;
    this.words.textContent = "Starting";
    this.chart.draw([], 1);
  }
}
