// A thumbnail with the image before on the left and after on the right, as one picture: the pointer moves the
// border between them.
import { element } from "../dom.js";
import { translate } from "../translate.js";

/** Returns an element that shows the image at `address`, whose halves are before and after. */
export function swipe(address, label = translate("Before and after")) {
  const before = half("ibg-before", address);
  const after = half("ibg-after", address);
  const border = element("div", { class: "ibg-border" });
  const inner = element("div", { class: "ibg-swipe" }, before, after, border);
  const root = element("div", { class: "ibg-swipe-box", role: "img", "aria-label": label }, inner);
  before.addEventListener("load", () => {
    const wide = before.naturalWidth >= 2 * before.naturalHeight;
    inner.style.aspectRatio = `${before.naturalWidth / 2} / ${before.naturalHeight}`;
    inner.classList.toggle("ibg-tall", !wide);
  });
  const moveTo = (share) => inner.style.setProperty("--at", `${100 * Math.min(1, Math.max(0, share))}%`);
  root.addEventListener("pointermove", (event) => {
    const { left, width } = inner.getBoundingClientRect();
    if (width) moveTo((event.clientX - left) / width);
  });
  root.addEventListener("pointerleave", () => moveTo(0.5));
  return root;
}

function half(name, address) {
  const attributes = { loading: "lazy", decoding: "async", draggable: "false", alt: "" };
  const image = element("img", { ...attributes, src: address });
  return Object.assign(image, { className: name });
}
