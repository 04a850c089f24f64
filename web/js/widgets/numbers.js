// Numbers whose least value stands for "automatic" show "auto", and take "auto" or nothing for it. The value
// that is saved and sent stays the number.
import { element } from "../dom.js";
import { translate } from "../translate.js";
import { described } from "./rules.js";

/** Inputs of the Vue renderer, as `keyOf` names them. */
const known = new Set();
let rules = null;

/** Notes the numbers of a node's definition. Call before nodes exist. */
export function noteNumbers(definition) {
  const { required = {}, optional = {} } = definition.input ?? {};
  for (const [name, [, options]] of Object.entries({ ...required, ...optional })) {
    if (options?.auto === undefined) continue;
    known.add(keyOf(name, options.auto, options.max));
    addRule(name, options.auto, options.max);
  }
}

/** Call once, after the translations are there. */
export function setupNumbers() {
  document.documentElement.style.setProperty("--ib-auto", JSON.stringify(translate("auto")));
  // In the capture phase: before the renderer reads what was typed.
  document.addEventListener("focus", ({ target }) => showWord(target), true);
  document.addEventListener("blur", ({ target }) => readTyped(target), true);
  document.addEventListener("keyup", ({ key, target }) => key === "Enter" && readTyped(target), true);
}

/** Prepares the number widgets of a node. */
export function addNumbers(node) {
  for (const widget of node.widgets ?? []) {
    const { auto } = described(node, widget.name);
    if (auto === undefined) continue;
    skipGap(widget, auto);
    drawAuto(widget, auto);
    takeTyped(widget, auto);
  }
}

function isWord(text) {
  const plain = String(text).trim().toLowerCase();
  return ["", "auto", translate("auto").toLowerCase()].includes(plain);
}

/** A scale of -1 is automatic and 0 is the least scale: stepping from one leads to the other. */
function skipGap(widget, auto) {
  const before = widget.callback;
  widget.callback = function (...given) {
    before?.apply(this, given);
    if (this.value > auto && this.value < 0) this.value = this.value < auto / 2 ? 0 : auto;
  };
}

/** The classic renderer draws what `_displayValue` says. */
function drawAuto(widget, auto) {
  const drawn = inherited(widget, "_displayValue");
  if (!drawn) return;
  const get = function () {
    return this.value === auto && !this.computedDisabled ? translate("auto") : drawn.call(this);
  };
  Object.defineProperty(widget, "_displayValue", { configurable: true, get });
}

/** The classic renderer asks for a value with the canvas's prompt. */
function takeTyped(widget, auto) {
  const clicked = widget.onClick;
  if (!clicked) return;
  const onClick = function ({ canvas, ...event }) {
    const prompt = (title, shown, done, ...others) => {
      const read = (typed) => done(isWord(typed) ? String(auto) : typed);
      return canvas.prompt(title, shown === auto ? translate("auto") : shown, read, ...others);
    };
    const asking = Object.create(canvas, { prompt: { value: prompt } });
    return clicked.call(this, { ...event, canvas: asking });
  };
  Object.defineProperty(widget, "onClick", { configurable: true, writable: true, value: onClick });
}

function inherited(object, name) {
  for (let at = object; at; at = Object.getPrototypeOf(at)) {
    const found = Object.getOwnPropertyDescriptor(at, name);
    if (found) return found.get;
  }
  return undefined;
}

/** A number in the Vue renderer: its field has the limits, and the element around it the name. */
function keyOf(name, least, most) {
  return JSON.stringify([name, Number(least), Number(most)]);
}

function isKnown(target) {
  if (!(target instanceof HTMLInputElement) || target.getAttribute("role") !== "spinbutton") return false;
  const [least, most] = ["aria-valuemin", "aria-valuemax"].map((name) => target.getAttribute(name));
  const label = target.closest("[aria-label]")?.getAttribute("aria-label");
  return known.has(keyOf(label, least, most));
}

function isAuto(target) {
  return isKnown(target) && target.getAttribute("aria-valuenow") === target.getAttribute("aria-valuemin");
}

function showWord(target) {
  if (isAuto(target)) target.value = translate("auto");
}

function readTyped(target) {
  if (isKnown(target) && isWord(target.value)) target.value = target.getAttribute("aria-valuemin");
}

/** Covers the number with the word while the field has no focus. */
function addRule(name, least, most) {
  if (!rules) {
    const sheet = element("style");
    document.head.append(sheet);
    rules = sheet.sheet;
  }
  const values = `[aria-valuemin="${least}"][aria-valuemax="${most}"][aria-valuenow="${least}"]`;
  const field = `input[role="spinbutton"]${values}:not(:focus)`;
  const labelled = `[aria-label="${name}"]`;
  rules.insertRule(`${labelled} ${field} { color: transparent; }`);
  const word = "content: var(--ib-auto); position: absolute; inset: 0; padding: 4px; pointer-events: none;";
  rules.insertRule(`${labelled} :has(> ${field})::before { ${word} }`);
}
