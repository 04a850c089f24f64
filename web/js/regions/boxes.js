// An image with boxes. Each box is a button with words and score, which keeps the object or leaves it out.
import { button, element } from "../dom.js";
import { translate } from "../translate.js";

export class Boxes {
  /** @param click gets the object whose box was clicked */
  constructor(click) {
    this.click = click;
    this.image = element("img", { alt: "", draggable: "false" });
    this.layer = element("div", { class: "ib-region-layer" });
    const frame = element("div", { class: "ib-region-frame" }, this.image, this.layer);
    this.root = element("div", { class: "ib-region-stage" }, frame);
    new ResizeObserver(() => this.#thinLabels()).observe(frame);
  }

  /** Shows an image, { source, name }, with its objects. */
  show({ source, name }, { width, height }, objects) {
    this.image.alt = name;
    if (source) this.image.src = source;
    else this.image.removeAttribute("src");
    this.root.style.setProperty("--ratio", width / height);
    this.objects = objects;
    // Small boxes come last, so that a large one does not cover them.
    const area = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
    const sorted = [...objects].sort((one, other) => area(other) - area(one));
    this.layer.replaceChildren(...sorted.map((each) => this.#box(each, width, height)));
    this.#thinLabels();
  }

  /** Hides labels that would cover better ones. They appear under the pointer and with the focus. */
  #thinLabels() {
    const placed = [];
    for (const { element: box } of this.objects ?? []) {
      const own = box.firstChild.getBoundingClientRect();
      const covers = placed.some(
        (each) =>
          own.left < each.right && each.left < own.right && own.top < each.bottom && each.top < own.bottom,
      );
      box.classList.toggle("ib-label-hidden", covers);
      if (!covers) placed.push(own);
    }
  }

  #box(object, width, height) {
    const [left, top, right, bottom] = object.box;
    const text = `${object.phrase} ${object.score.toFixed(2)}`;
    const label = element("span", { text });
    const box = button("", () => this.click(object), { class: "ib-region-box" });
    box.append(label);
    Object.assign(box.style, {
      left: `${(100 * left) / width}%`,
      top: `${(100 * top) / height}%`,
      width: `${(100 * (right - left)) / width}%`,
      height: `${(100 * (bottom - top)) / height}%`,
    });
    box.classList.toggle("ib-label-inside", top < height * 0.12);
    box.classList.toggle("ib-label-right", left > width * 0.6);
    object.element = box;
    return box;
  }

  /** Marks the boxes that are kept, left out by the user, or too weak. */
  mark(kept, selection) {
    for (const { element: box, key, phrase, score } of this.objects) {
      const is = kept.has(key);
      const out = !is && selection.out.has(key);
      box.setAttribute("aria-pressed", String(is));
      box.classList.toggle("ib-out", out);
      box.classList.toggle("ib-faint", !is && !out);
      const values = { phrase, score: score.toFixed(2) };
      box.title = is
        ? translate("{phrase}, score {score}. Click to leave it out.", values)
        : translate("{phrase}, score {score}. Click to include it.", values);
    }
  }
}
