// Translations of texts in panels and of sentences from the server. ComfyUI itself translates nodes, inputs
// and settings.
//
// An English text is the key of its translation: locales/<language>.json has the texts of these modules,
// locales/<language>_server.json the sentences that Python writes, with {placeholders} for their values. A
// placeholder called sentence, sentence_2 … holds another sentence; all others hold data, which is never
// translated.
import { app } from "../../../scripts/app.js";
import { after } from "./nodes.js";

const LANGUAGES = ["zh"];
const MOST_REMEMBERED = 500;
/** Longer lines stay as they are: comparing them takes too long. */
const MOST_CHARACTERS = 1000;
/** Most pieces of a line, from one full stop to the next, that may be one known sentence. */
const MOST_PIECES = 8;
const PLACEHOLDER = /\{(\w+)\}/g;
/** Letters that are two columns wide in monospaced text. */
const WIDE = /[\u1100-\u115f\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]/g;

let texts = new Map();
let sentences = new Map();
/** Sentences with values: [pattern, translation], the most particular ones first (see `compare`). */
let patterns = [];
let remembered = new Map();

/** Reads the translations for ComfyUI's language. Until then, and in other languages, texts stay English. */
export async function loadTranslations() {
  const language = app.extensionManager?.setting?.get("Comfy.Locale");
  if (!LANGUAGES.includes(language)) return;
  [texts, sentences] = await Promise.all([read(language), read(`${language}_server`)]);
  patterns = [...sentences]
    .filter(([key]) => key.includes("{"))
    .sort(([one], [other]) => compare(one, other))
    .map(([key, text]) => [pattern(key), text]);
  remembered = new Map();
}

async function read(name) {
  const answer = await fetch(new URL(`../locales/${name}.json`, import.meta.url)).catch(() => null);
  return new Map(answer?.ok ? Object.entries(await answer.json()) : []);
}

/** Returns a panel's text in the user's language: translate("{count} pairs", { count: 4 }) */
export function translate(text, values = {}) {
  return filled(texts.get(text) ?? text, values);
}

/** Returns what the server says in the user's language, line by line. Unknown sentences stay English. */
export function translateSentence(said) {
  if (!sentences.size || !said) return said;
  return String(said).split("\n").map(translatedLine).join("\n");
}

/** Translates the sockets of a new node, and again when a saved one has brought its labels. */
export function followSockets(node) {
  translateSockets(node);
  after(node, "onConfigure", () => translateSockets(node));
}

/**
 * Lets a node's sockets show their translation: ComfyUI prefers the schema's English label, which saved
 * workflows hold, too. Labels that users gave stay.
 */
function translateSockets(node) {
  if (!texts.size) return;
  const { required, optional } = node.constructor.nodeData?.input ?? {};
  const declared = { ...required, ...optional };
  for (const input of node.inputs ?? []) {
    const own = input.label === declared[input.name]?.[1]?.display_name;
    if (own && input.localized_name) input.label = undefined;
  }
}

function translatedLine(line) {
  if (line.length > MOST_CHARACTERS) return line;
  const known = remembered.get(line);
  if (known !== undefined) return known;
  if (remembered.size >= MOST_REMEMBERED) remembered.clear();
  const found = whole(line) ?? titles(line) ?? joined(line);
  remembered.set(line, found);
  return found;
}

/** The translation of a line that is one known sentence; undefined for others. */
function whole(line) {
  const [indent] = /^\s*/.exec(line);
  const bare = line.slice(indent.length);
  const text = sentences.get(bare);
  if (text !== undefined) return indent + text;
  for (const [found, template] of patterns) {
    const values = valuesOf(found, bare);
    if (!values) continue;
    const translated = found.names.map((name, index) => {
      return [name, name.startsWith("sentence") ? translatedLine(values[index]) : values[index]];
    });
    return indent + filled(template, Object.fromEntries(translated));
  }
  return undefined;
}

/** The titles of a table, whose columns stay where they are; undefined for other lines. */
function titles(line) {
  const cells = line.split(/ {2,}/);
  const translated = cells.length > 1 && sentences.get(cells.join("  "))?.split("  ");
  if (translated?.length !== cells.length) return undefined;
  let made = "";
  let from = 0;
  for (const [index, cell] of cells.entries()) {
    from = line.indexOf(cell, from);
    made += " ".repeat(Math.max(index ? 1 : 0, from - columns(made))) + translated[index];
    from += cell.length;
  }
  return made;
}

function columns(text) {
  return text.length + (text.match(WIDE)?.length ?? 0);
}

/** Several sentences one after the other: the longest known beginning first, then the others. */
function joined(line) {
  const parts = line.split(/(?<=[.!?]) (?=\S)/);
  if (parts.length === 1) return line;
  for (let count = Math.min(parts.length - 1, MOST_PIECES); count > 0; count--) {
    const begin = whole(parts.slice(0, count).join(" "));
    if (begin !== undefined) return begin + translatedLine(parts.slice(count).join(" "));
  }
  return `${parts[0]} ${translatedLine(parts.slice(1).join(" "))}`;
}

function filled(text, values) {
  return text.replace(PLACEHOLDER, (placeholder, name) => values[name] ?? placeholder);
}

/** Keys that begin with their own words come first, then those with more of them. */
function compare(one, other) {
  const begins = (key) => Number(!key.startsWith("{"));
  const words = (key) => key.replace(PLACEHOLDER, "").length;
  return begins(other) - begins(one) || words(other) - words(one);
}

/**
 * "{done} of {all}" becomes the names done and all, and the texts around them: "", " of " and "". Only what
 * stands in quotes, and other sentences, may go `beyond` the end of a sentence.
 */
function pattern(key) {
  const parts = key.split(PLACEHOLDER);
  const texts = parts.filter((_, index) => index % 2 === 0);
  const names = parts.filter((_, index) => index % 2 === 1);
  const inQuotes = (index) => texts[index].endsWith("'") && texts[index + 1].startsWith("'");
  const beyond = names.map((name, index) => name.startsWith("sentence") || inQuotes(index));
  return { texts, names, beyond };
}

/**
 * Returns the values that make a pattern the line, the first ones as short as possible; undefined if there
 * are none. A regular expression would try all combinations, which takes minutes for some lines.
 */
function valuesOf({ texts, names, beyond }, line) {
  if (!line.startsWith(texts[0]) || !line.endsWith(texts.at(-1))) return undefined;
  const values = [];
  const failed = new Set();
  /** Finds the values from one on, which begins at `start`. */
  const find = (index, start) => {
    const place = index * (line.length + 1) + start;
    if (failed.has(place)) return false;
    const text = texts[index + 1];
    const most = beyond[index] ? line.length : sentenceEnd(line, start);
    const last = index === names.length - 1;
    const next = (from) => (last ? line.length - text.length : line.indexOf(text, from));
    for (let end = next(start + 1); end > start && end <= most; end = last ? -1 : next(end + 1)) {
      values[index] = line.slice(start, end);
      if (last || find(index + 1, end + text.length)) return true;
      if (end === line.length) break;
    }
    failed.add(place);
    return false;
  };
  return find(0, texts[0].length) ? values : undefined;
}

/** Where the sentence ends that goes on at `start`. */
function sentenceEnd(line, start) {
  const end = line.slice(start).search(/[.!?] [A-Z]/);
  return end < 0 ? line.length : start + end;
}
