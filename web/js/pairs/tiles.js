// A tile of the board: before | after of a pair, its size, its problem, and its buttons.
import { api } from "../../../../scripts/api.js";
import { element, iconButton } from "../dom.js";
import { request, viewOf } from "../server.js";
import { translateSentence } from "../translate.js";
import { TEXTS } from "./texts.js";

const SHOWN_BY_BROWSERS = /\.(a?png|jpe?g|jfif|webp|gif|bmp|avif)$/i;
/** Larger files are shown as thumbnails of the server. */
const MOST_BYTES = 400_000;
const MOST_PIXELS = 1_500_000;
const FAR_LARGER = 1536;

/**
 * @param at { pair, index }: a pair of the server's answer, and its place there
 * @param context { survey, board, fit, sized, act }: act(name, pair) is called for the buttons
 */
export function tile({ pair, index }, context) {
  const { board } = context;
  const key = pair.key;
  const single = key === "";
  const skipped = !single && board.skip.includes(key);
  const swapped = !single && board.swap.includes(key);
  const heldOut = !single && board.held_out === key && !skipped;
  const problem = skipped || (pair.problem === "ratio" && context.fit !== "stop") ? "" : pair.problem;
  const classes = ["ib-pair", skipped && "ib-skipped", heldOut && "ib-held-out", problem && "ib-faulty"];
  const named = { class: classes.filter(Boolean).join(" "), "data-key": key };
  const root = element("div", { ...named, role: "listitem", "aria-label": pair.name });
  const sides = swapped ? ["after", "before"] : ["before", "after"];
  const sentence = problem ? translateSentence(pair.sentence) : "";
  const says = element("div", { class: "ib-pair-problem", text: sentence });
  const images = element("div", { class: "ib-pair-images" });
  for (const [place, side] of sides.entries()) {
    const caption = place ? TEXTS.after() : TEXTS.before();
    images.append(half(pair, index, side, caption, context, says));
  }
  if (pair.mask && !board.no_mask.includes(key)) {
    const src = address(pair.mask, index, "mask", context.survey);
    images.append(element("img", { class: "ib-pair-mask", alt: TEXTS.maskImage(), draggable: "false", src }));
  }
  const state = skipped ? TEXTS.skipped() : heldOut ? TEXTS.heldOut() : "";
  if (state) images.append(element("span", { class: "ib-pair-state", text: state }));
  root.append(images, nameRow(pair, context), says);
  if (!single) root.insertBefore(buttons(pair, { skipped, swapped, heldOut }, context), says);
  return root;
}

function half(pair, index, side, caption, { survey }, says) {
  const figure = element("figure", {}, element("figcaption", { text: caption }));
  const file = pair[side];
  if (!file) {
    figure.append(element("span", { class: "ib-pair-missing", text: TEXTS.missing() }));
  } else if (file.width) {
    const image = element("img", {
      alt: `${pair.name}, ${caption}`,
      loading: "lazy",
      draggable: "false",
      src: address(file, index, side, survey),
    });
    image.addEventListener("error", () => explain(thumbnail(index, side, survey), says), { once: true });
    figure.append(image);
  }
  return figure;
}

/** Shows why the server cannot read a file that the browser cannot show. */
async function explain(path, says) {
  try {
    await request(path);
    return;
  } catch (error) {
    says.textContent = error.message;
  }
  says.closest(".ib-pair")?.classList.add("ib-faulty");
}

function thumbnail(index, side, { folder, state }) {
  return `/instructbrush/pairs/image?${new URLSearchParams({ folder, state, index, side })}`;
}

function address(file, index, side, survey) {
  const large = file.bytes > MOST_BYTES || file.width * file.height > MOST_PIXELS;
  if (!survey.own || large || !SHOWN_BY_BROWSERS.test(file.file)) {
    return api.apiURL(thumbnail(index, side, survey));
  }
  const parts = `${survey.folder}/${file.file}`.split("/");
  const filename = parts.pop();
  // The state changes the address when a file changes.
  const state = survey.state.slice(0, 12);
  return viewOf({ filename, subfolder: parts.join("/"), type: "input", state });
}

function nameRow(pair, { sized }) {
  const row = element("div", { class: "ib-pair-row" });
  row.append(element("span", { class: "ib-pair-name", text: pair.name, title: pair.name }));
  const files = [pair.before, pair.after].filter((file) => file?.width);
  const sizes = files.map((file) => `${file.width} x ${file.height}`);
  if (sizes.length) {
    const differ = sizes.length === 2 && sizes[0] !== sizes[1];
    const large = !sized && files.some((file) => Math.max(file.width, file.height) > FAR_LARGER);
    const title = [differ && TEXTS.sizesDiffer(), large && TEXTS.farLarger()].filter(Boolean).join(" ");
    const text = differ ? sizes.join(" | ") : sizes[0];
    const badge = { class: `ib-pair-size${title ? " ib-amber" : ""}`, text };
    row.append(element("span", title ? { ...badge, title } : badge));
  }
  return row;
}

function buttons(pair, { skipped, swapped, heldOut }, { board, act }) {
  const name = pair.name;
  const masked = pair.mask && !board.no_mask.includes(pair.key);
  const maskText = masked ? TEXTS.ignoreMask : pair.mask ? TEXTS.useMask : TEXTS.mask;
  const make = (sign, title, what, act, pressed) => {
    const attributes = { class: "ib-pair-button", "data-act": what };
    if (pressed !== undefined) attributes["aria-pressed"] = String(pressed);
    return iconButton(sign, title, act, attributes);
  };
  const handle = make("arrows-alt", TEXTS.move(name), "move", () => {});
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    act("step", pair, step);
  });
  handle.addEventListener("pointerdown", (event) => act("drag", pair, event));
  const toggle = (sign, title, what, pressed) => make(sign, title, what, () => act(what, pair), pressed);
  const star = heldOut ? ["star-fill", TEXTS.unstar(name)] : ["star", TEXTS.star(name)];
  const skip = skipped ? ["eye-slash", TEXTS.use(name)] : ["eye", TEXTS.skip(name)];
  return element(
    "div",
    { class: "ib-pair-buttons" },
    handle,
    toggle(...star, "star", heldOut),
    toggle("arrow-right-arrow-left", TEXTS.swap(name), "swap", swapped),
    toggle("pencil", maskText(name), "mask", Boolean(masked)),
    toggle(...skip, "skip", skipped),
  );
}
