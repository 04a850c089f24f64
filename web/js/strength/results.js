// The results of tried strengths in a row. A click on one takes its strength.
import { button, element } from "../dom.js";
import { viewOf } from "../server.js";
import { translate } from "../translate.js";
import { shortest } from "./slider.js";

const COUNT = 5;

/** Equally spaced strengths. */
export function strengthsBetween(lowest, highest, count = COUNT) {
  const step = (highest - lowest) / (count - 1);
  return Array.from({ length: count }, (_, index) => Number((lowest + index * step).toFixed(3)));
}

/** What people want to see around a strength. */
export function rangeAround(strength) {
  if (strength < -1) return [-4, 0];
  if (strength < 0) return [-1, 1];
  return strength <= 2 ? [0, 2] : [0, 4];
}

/** The order of running: the strength nearest to the chosen one last, so that later nodes show that. */
export function runningOrder(strengths, chosen) {
  const distance = (strength) => Math.abs(strength - chosen);
  const nearest = [...strengths].sort((one, other) => distance(one) - distance(other))[0];
  return [...strengths.filter((strength) => strength !== nearest), nearest];
}

export class Results {
  /** `choose(strength, again)` is called for a click on a result; `again` shows it large. */
  constructor(choose) {
    this.choose = choose;
    this.tiles = new Map();
    this.root = element("div", { class: "ib-tries", role: "group" });
    this.root.setAttribute("aria-label", translate("Results of the tried strengths"));
  }

  begin(strengths) {
    this.tiles.clear();
    for (const strength of strengths) {
      const image = element("div", { class: "ib-try-image" });
      const words = element("span", { text: shortest(strength) });
      const label = translate("Strength {strength}", { strength: shortest(strength) });
      const made = { image, again: () => {} };
      const choose = () => this.choose(strength, made.again);
      made.tile = button("", choose, { class: "ib-try", disabled: "", "aria-label": label });
      made.tile.append(image, words);
      this.tiles.set(strength, made);
    }
    this.root.replaceChildren(...[...this.tiles.values()].map(({ tile }) => tile));
  }

  running(strength) {
    this.tiles.get(strength).tile.classList.add("ib-running");
  }

  /** Shows a result, which `again` shows large; without an image it stays empty. */
  add(strength, file, again) {
    const made = this.tiles.get(strength);
    const { tile, image } = made;
    tile.classList.remove("ib-running");
    if (!file) return;
    made.again = again;
    const { filename, subfolder, type } = file;
    image.append(element("img", { src: viewOf({ filename, subfolder, type }), alt: "", draggable: "false" }));
    tile.disabled = false;
    tile.title = translate("Click to take this strength");
  }

  /** Ends waiting: what was not run stays empty. */
  ended() {
    for (const { tile } of this.tiles.values()) tile.classList.remove("ib-running");
  }

  /** Frames the chosen strength. */
  mark(strength) {
    for (const [each, { tile }] of this.tiles) {
      tile.setAttribute("aria-pressed", Math.abs(each - strength) < 1e-6);
    }
  }
}
