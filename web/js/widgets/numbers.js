// Numbers whose least value stands for a word ("auto", "off") show the word, and take it or nothing for that
// value. The value that is saved and sent stays the number.
import { element } from "../dom.js";
import { after } from "../nodes.js";
import { translate } from "../translate.js";
import { described } from "./rules.js";

/** Inputs of the Vue renderer, as `keyOf` names them, and their words. */
const known = new Map();
let rules = null;

function wordOf(word) {
  if (word === "none") return translate("none");
  if (word === "off") return translate("off");
  if (word === "as they are") return translate("as they are");
  return translate("auto");
}

/** The least value of a number and the word that it stands for. Undefined if it is only a number. */
function leastOf({ auto, zero } = {}) {
  if (auto !== undefined) return { least: auto, word: "auto" };
  return zero === undefined ? undefined : { least: 0, word: zero };
}

/** Notes the numbers of a node's definition. Call before nodes exist. */
export function noteNumbers(definition) {
  const { required = {}, optional = {} } = definition.input ?? {};
  for (const [name, [, options]] of Object.entries({ ...required, ...optional })) {
    const found = leastOf(options);
    if (!found) continue;
    known.set(keyOf(name, found.least, options.max), found.word);
    addRule(name, found.least, options.max, found.word);
  }
}

/** Call once, after the translations are there. */
export function setupNumbers() {
  for (const word of new Set(known.values())) {
    document.documentElement.style.setProperty(variable(word), JSON.stringify(wordOf(word)));
  }
  // In the capture phase: before the renderer reads what was typed.
  document.addEventListener("focus", ({ target }) => showWord(target), true);
  document.addEventListener("blur", ({ target }) => readTyped(target), true);
  document.addEventListener("keyup", ({ key, target }) => key === "Enter" && readTyped(target), true);
}

/** Prepares the number widgets of a node. */
export function addNumbers(node) {
  for (const widget of node.widgets ?? []) {
    const found = leastOf(described(node, widget.name));
    if (!found) continue;
    if (found.least < 0) skipGap(widget, found.least);
    drawWord(widget, found);
    takeTyped(widget, found);
  }
}

/** The word that a number stands for, if it does. */
export function wordFor(node, widget) {
  const found = leastOf(described(node, widget.name));
  return found?.least === widget.value ? wordOf(found.word) : undefined;
}

function isWord(text, word) {
  const plain = String(text).trim().toLowerCase();
  return ["", word, wordOf(word).toLowerCase()].includes(plain);
}

/** A scale of -1 is automatic and 0 is the least scale: stepping from one leads to the other. */
function skipGap(widget, auto) {
  after(widget, "callback", function () {
    if (this.value > auto && this.value < 0) this.value = this.value < auto / 2 ? 0 : auto;
  });
}

/**
 * The classic renderer draws what `_displayValue` says, and has no public way to draw another text. A front
 * end without it draws the number.
 */
function drawWord(widget, { least, word }) {
  const drawn = inherited(widget, "_displayValue");
  if (!drawn) return;
  const get = function () {
    return this.value === least && !this.computedDisabled ? wordOf(word) : drawn.call(this);
  };
  Object.defineProperty(widget, "_displayValue", { configurable: true, get });
}

/** The classic renderer asks for a value with the canvas's prompt. */
function takeTyped(widget, { least, word }) {
  const clicked = widget.onClick;
  if (!clicked) return;
  widget.onClick = function (event) {
    const { canvas } = event;
    const { prompt } = canvas;
    canvas.prompt = function (title, shown, done, ...others) {
      const read = (typed) => done(isWord(typed, word) ? String(least) : typed);
      return prompt.call(this, title, shown === least ? wordOf(word) : shown, read, ...others);
    };
    try {
      return clicked.call(this, event);
    } finally {
      delete canvas.prompt; // the class has its own
    }
  };
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

function variable(word) {
  return `--ib-word-${word.replaceAll(" ", "-")}`;
}

/** The word of a number field in the Vue renderer. */
function knownWord(target) {
  if (!(target instanceof HTMLInputElement) || target.getAttribute("role") !== "spinbutton") return undefined;
  const [least, most] = ["aria-valuemin", "aria-valuemax"].map((name) => target.getAttribute(name));
  const label = target.closest("[aria-label]")?.getAttribute("aria-label");
  return known.get(keyOf(label, least, most));
}

function showWord(target) {
  const word = knownWord(target);
  if (word && target.getAttribute("aria-valuenow") === target.getAttribute("aria-valuemin")) {
    target.value = wordOf(word);
  }
}

function readTyped(target) {
  const word = knownWord(target);
  if (word && isWord(target.value, word)) target.value = target.getAttribute("aria-valuemin");
}

/** Covers the number with the word while the field has no focus. */
function addRule(name, least, most, word) {
  if (!rules) {
    const sheet = element("style");
    document.head.append(sheet);
    rules = sheet.sheet;
  }
  const values = `[aria-valuemin="${least}"][aria-valuemax="${most}"][aria-valuenow="${least}"]`;
  const field = `input[role="spinbutton"]${values}:not(:focus, :disabled)`;
  const labelled = `[aria-label="${name}"]`;
  rules.insertRule(`${labelled} ${field} { color: transparent; }`);
  const covered = "position: absolute; inset: 0; padding: 4px; pointer-events: none;";
  rules.insertRule(`${labelled} :has(> ${field})::before { content: var(${variable(word)}); ${covered} }`);
}
