// The curves of a learning run over its steps, on a logarithmic scale: every loss as a faint line, a running
// mean over it, and the error of the held-out pair with a mark at its best step.
import { drawing } from "../dom.js";
import { translate } from "../translate.js";

const WIDTH = 320;
const HEIGHT = 110;
const LEFT = 40;
const BOTTOM = 14;
const MOST_POINTS = 160;
const usable = (value) => Number.isFinite(value) && value > 0;

/**
 * Returns means over at most `count` equal parts of a list of points [step, value], so that the path of a
 * long run stays short. A part keeps its last step.
 */
export function thin(points, count = MOST_POINTS) {
  if (points.length <= count) return points.slice();
  const kept = [];
  for (let i = 0; i < count; i++) {
    const part = points.slice(
      Math.floor((i * points.length) / count),
      Math.floor(((i + 1) * points.length) / count),
    );
    kept.push([part.at(-1)[0], part.reduce((sum, [, value]) => sum + value, 0) / part.length]);
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

/** Returns the [step, error] with the least error, or undefined. */
export function bestOf(points) {
  return points.filter(([, error]) => usable(error)).reduce((best, point) => {
    return best && best[1] <= point[1] ? best : point;
  }, undefined);
}

export class LossChart {
  constructor() {
    this.raw = drawing("path", { class: "ib-raw" });
    this.mean = drawing("path", { class: "ib-mean" });
    this.heldOut = drawing("path", { class: "ib-held-out" });
    this.mark = drawing("circle", { class: "ib-best", r: 3 });
    this.markText = this.label("middle", "ib-best-text");
    this.labels = [this.label("end"), this.label("end")];
    this.last = this.label("end");
    this.labels[0].setAttribute("y", 10);
    this.labels[1].setAttribute("y", HEIGHT - BOTTOM);
    for (const label of this.labels) label.setAttribute("x", LEFT - 5);
    this.last.setAttribute("x", WIDTH - 2);
    this.last.setAttribute("y", HEIGHT - 2);
    const frame = drawing("path", { class: "ib-frame", d: `M${LEFT} 2V${HEIGHT - BOTTOM}H${WIDTH - 2}` });
    this.root = drawing(
      "svg",
      { class: "ib-chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": translate("Loss") },
      frame,
      this.raw,
      this.mean,
      this.heldOut,
      this.mark,
      this.markText,
      ...this.labels,
      this.last,
    );
    this.draw([], 1);
  }

  label(anchor, name = "ib-axis") {
    return drawing("text", { class: name, "text-anchor": anchor });
  }

  /**
   * Draws all losses, oldest first, and the held-out pair's errors [step, error]. `total` is the number of
   * steps, so the curves grow to the right. Both have the same scale.
   */
  draw(losses, total, heldOut = []) {
    const means = smooth(losses.filter(usable));
    let seen = 0;
    const points = losses.map((loss, i) => [i + 1, loss]).filter(([, loss]) => usable(loss));
    const raw = thin(points);
    const mean = thin(points.map(([step]) => [step, means[seen++]]));
    const held = heldOut.filter(([, error]) => usable(error));
    const values = [...raw, ...mean, ...held].map(([, value]) => value);
    const low = Math.min(...values);
    const high = Math.max(...values, low * 1.0001);
    const span = Math.log(high) - Math.log(low);
    const place = ([step, value]) => [
      LEFT + (WIDTH - 2 - LEFT) * Math.min(1, step / Math.max(total, 1)),
      4 + ((Math.log(high) - Math.log(value)) / span) * (HEIGHT - BOTTOM - 8),
    ];
    const path = (list) =>
      list.map((point, i) => (i ? "L" : "M") + place(point).map((at) => at.toFixed(1)).join(" ")).join("");
    this.raw.setAttribute("d", path(raw));
    this.mean.setAttribute("d", path(mean));
    this.heldOut.setAttribute("d", path(held));
    this.labels[0].textContent = values.length ? brief(high) : "";
    this.labels[1].textContent = values.length ? brief(low) : "";
    this.last.textContent = values.length ? `${total}` : "";
    this.markBest(bestOf(held), place);
    const best = bestOf(held);
    const label = best
      ? translate("Loss; held-out pair best at step {step}", { step: best[0] })
      : translate("Loss");
    this.root.setAttribute("aria-label", label);
  }

  markBest(best, place) {
    this.mark.toggleAttribute("hidden", !best);
    this.markText.textContent = best ? translate("best at {step}", { step: best[0] }) : "";
    if (!best) return;
    const [x, y] = place(best);
    this.mark.setAttribute("cx", x.toFixed(1));
    this.mark.setAttribute("cy", y.toFixed(1));
    this.markText.setAttribute("x", Math.min(Math.max(x, LEFT + 30), WIDTH - 30).toFixed(1));
    this.markText.setAttribute("y", (y > 20 ? y - 7 : y + 14).toFixed(1));
  }
}
