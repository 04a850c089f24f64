// The loss curve on a logarithmic scale: every loss as a faint line, and a running mean over it.
import { drawing } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 110;
const LEFT = 40;
const BOTTOM = 14;
const MOST_POINTS = 160;

/** Returns means over at most `count` equal parts of the list, so that the path of a long run stays short. */
export function thin(losses, count = MOST_POINTS) {
  if (losses.length <= count) return losses.slice();
  const kept = [];
  for (let i = 0; i < count; i++) {
    const start = Math.floor((i * losses.length) / count);
    const end = Math.floor(((i + 1) * losses.length) / count);
    const part = losses.slice(start, end);
    kept.push(part.reduce((sum, loss) => sum + loss, 0) / part.length);
  }
  return kept;
}

/** Returns an exponential running mean with bias correction, so that it does not start near zero. */
export function smooth(losses, keep = 0.9) {
  let mean = 0;
  let weight = 0;
  return losses.map((loss) => {
    mean = keep * mean + (1 - keep) * loss;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

/** Formats a loss with three significant digits, without an exponent from 0.001 to 1000. */
export function brief(value) {
  return value >= 0.001 && value < 1000 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

export class LossChart {
  constructor() {
    this.raw = drawing("path", { class: "ib-raw" });
    this.mean = drawing("path", { class: "ib-mean" });
    const label = (x, y) => drawing("text", { class: "ib-axis", x, y, "text-anchor": "end" });
    this.labels = [label(LEFT - 5, 10), label(LEFT - 5, HEIGHT - BOTTOM)];
    this.last = label(WIDTH - 2, HEIGHT - 2);
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

  /** Draws all losses, oldest first. `total` is the number of steps, so the curve grows to the right. */
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
    const width = (WIDTH - 2 - LEFT) * Math.min(1, values.length / Math.max(total, 1));
    const step = width / Math.max(thinned.length - 1, 1);
    const path = (list) =>
      list
        .map((loss, i) => {
          const y = 4 + ((Math.log(high) - Math.log(loss)) / span) * (HEIGHT - BOTTOM - 8);
          return `${i ? "L" : "M"}${(LEFT + i * step).toFixed(1)} ${y.toFixed(1)}`;
        })
        .join("");
    this.raw.setAttribute("d", path(thinned));
    this.mean.setAttribute("d", path(means));
    this.labels[0].textContent = brief(high);
    this.labels[1].textContent = brief(low);
    this.last.textContent = `${total}`;
  }
}
