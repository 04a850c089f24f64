// The loss curve: every loss as it came, faint, and a running mean over it, on a logarithmic scale.
import { drawing } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 110;
const LEFT = 40;
const BOTTOM = 14;
const MOST_POINTS = 160;

/** Means over at most `count` equal runs of the list, so that a long run stays a short path. */
export function thin(losses, count = MOST_POINTS) {
  if (losses.length <= count) return losses.slice();
  const kept = [];
  for (let i = 0; i < count; i++) {
    const part = losses.slice(Math.floor((i * losses.length) / count), Math.floor(((i + 1) * losses.length) / count));
    kept.push(part.reduce((sum, loss) => sum + loss, 0) / part.length);
  }
  return kept;
}

/** Exponential running mean, corrected for its start, so the first values are not pulled to anything. */
export function smooth(losses, keep = 0.9) {
  let mean = 0;
  let weight = 0;
  return losses.map((loss) => {
    mean = keep * mean + (1 - keep) * loss;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

/** Three significant digits, never an exponent for the sizes losses have. */
export function brief(value) {
  return value >= 0.001 && value < 1000 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

export class LossChart {
  constructor() {
    this.raw = drawing("path", { class: "ib-raw" });
    this.mean = drawing("path", { class: "ib-mean" });
    this.labels = [0, 1].map((row) => drawing("text", { class: "ib-axis", x: LEFT - 5, y: row ? HEIGHT - BOTTOM : 10, "text-anchor": "end" }));
    this.last = drawing("text", { class: "ib-axis", x: WIDTH - 2, y: HEIGHT - 2, "text-anchor": "end" });
    const frame = drawing("path", { class: "ib-frame", d: `M${LEFT} 2V${HEIGHT - BOTTOM}H${WIDTH - 2}` });
    this.root = drawing(
      "svg",
      { class: "ib-chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Loss" },
      frame,
      this.raw,
      this.mean,
      ...this.labels,
      this.last,
    );
  }

  /** losses: all of them, oldest first; total: steps of the whole run, so the curve grows to the right. */
  draw(losses, total) {
    const values = losses.filter((loss) => Number.isFinite(loss) && loss > 0);
    if (!values.length) {
      for (const part of [this.raw, this.mean]) part.setAttribute("d", "");
      for (const label of [...this.labels, this.last]) label.textContent = "";
      return;
    }
    const thinned = thin(values);
    const means = thin(smooth(values));
    const low = Math.min(...thinned, ...means);
    const high = Math.max(...thinned, ...means, low * 1.0001);
    const span = Math.log(high) - Math.log(low);
    const reach = ((WIDTH - 2 - LEFT) * Math.min(1, values.length / Math.max(total, 1))) / Math.max(thinned.length - 1, 1);
    const path = (list) =>
      list
        .map((loss, i) => {
          const y = 4 + ((Math.log(high) - Math.log(loss)) / span) * (HEIGHT - BOTTOM - 8);
          return `${i ? "L" : "M"}${(LEFT + i * reach).toFixed(1)} ${y.toFixed(1)}`;
        })
        .join("");
    this.raw.setAttribute("d", path(thinned));
    this.mean.setAttribute("d", path(means));
    this.labels[0].textContent = brief(high);
    this.labels[1].textContent = brief(low);
    this.last.textContent = `${total}`;
  }
}
