// Offers a size to learn at, if the images are far larger than those that the model was made for.
import { button, element } from "../dom.js";
import { sideForPairs } from "../gallery/family.js";
import { TEXTS } from "./texts.js";

/** Side of the images of most models, where the graph shows no model. */
const USUAL = 512;
const MOST_TIMES = 2;

export class SizeAdvice {
  /** `use(side)` sets the size that the user takes. */
  constructor(node, use) {
    this.node = node;
    this.use = use;
    /** Number of models asked for, to drop old answers. */
    this.asked = 0;
    this.text = "";
    this.root = element("div", { class: "ib-pairs-advice", hidden: "" });
  }

  /** Looks at the images of pairs. Without pairs it offers nothing. */
  async show(pairs) {
    const files = pairs.flatMap((pair) => [pair.before, pair.after]).filter((file) => file?.width);
    const [largest] = files.sort((one, other) => other.width * other.height - one.width * one.height);
    const asked = ++this.asked;
    if (!largest) {
      this.root.hidden = true;
      return;
    }
    const side = (await sideForPairs(this.node).catch(() => null)) ?? USUAL;
    if (asked !== this.asked) return;
    this.root.hidden = Math.max(largest.width, largest.height) <= MOST_TIMES * side;
    const text = TEXTS.large(`${largest.width} x ${largest.height}`, side);
    if (text === this.text) return; // a new button would not take a click that is under way
    this.text = text;
    const take = button(TEXTS.useSize(side), () => this.use(side));
    this.root.replaceChildren(element("span", { text }), take);
  }
}
