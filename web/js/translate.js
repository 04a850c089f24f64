// Translations of the texts in panels and of sentences from the server. An English text is the key of its
// translation in locales/<language>.json. ComfyUI itself translates nodes, inputs and settings.
import { app } from "../../../scripts/app.js";

const LANGUAGES = ["zh"];

let texts = {};
let patterns = null;

/** Reads the translations for ComfyUI's language. Until then, and in other languages, texts stay English. */
export async function loadTranslations() {
  const language = app.extensionManager?.setting?.get("Comfy.Locale");
  if (!LANGUAGES.includes(language)) return;
  const answer = await fetch(new URL(`../locales/${language}.json`, import.meta.url));
  if (!answer.ok) return;
  texts = await answer.json();
  patterns = null;
}

/** Returns a panel's text in the user's language: translate("{count} pairs", { count: 4 }) */
export function translate(text, values = {}) {
  return filled(texts[text] ?? text, values);
}

/** Returns a sentence of the server in the user's language. Values are found with the keys' placeholders. */
export function translateSentence(sentence) {
  if (texts[sentence]) return texts[sentence];
  patterns ??= Object.keys(texts).filter((key) => key.includes("{")).map((key) => [pattern(key), texts[key]]);
  for (const [expression, text] of patterns) {
    const found = expression.exec(sentence);
    if (found) return filled(text, found.groups);
  }
  return sentence;
}

function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** "{done} of {all}" becomes an expression with the groups done and all. */
function pattern(key) {
  const parts = key.split(/\{(\w+)\}/);
  const quoted = parts.map((part, index) =>
    index % 2 ? `(?<${part}>.+?)` : part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"),
  );
  return new RegExp(`^${quoted.join("")}$`, "s");
}
