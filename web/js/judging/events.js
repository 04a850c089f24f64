// Judgements as events: choices and their keys, what events make of the stored judgements, and where events
// are kept. Each event has an id, so that no event counts twice.
import { translate } from "../translate.js";

/** Names of the images, and of the votes for them. */
const ORDINALS = [
  () => translate("First"),
  () => translate("Second"),
  () => translate("Third"),
  () => translate("Fourth"),
];

/** The name of an image, by its place from 0. */
export function ordinal(place) {
  return ORDINALS[place]?.() ?? String(place + 1);
}

/**
 * Returns choice -> text and key of its button, in the order of the buttons.
 * A vote for the best of all images has a choice for each of them, "1" for the first.
 */
export function choicesOf(vote, images) {
  const undo = { text: translate("Undo"), key: "0" };
  if (vote !== "best") {
    return {
      left: { text: ordinal(0), key: "1" },
      tie: { text: translate("Tie"), key: "2" },
      right: { text: ordinal(1), key: "3" },
      undo,
    };
  }
  const numbers = Array.from({ length: images }, (_, index) => String(index + 1));
  // Object keys that are numbers always come first, so Undo stays the last one.
  return { ...Object.fromEntries(numbers.map((key) => [key, { text: ordinal(key - 1), key }])), undo };
}

/**
 * Applies events that the server does not have yet to the judgements it has. Returns the judgements that were
 * not undone, in the order they were made, one for each comparison.
 */
export function applyEvents(judged, events) {
  const judgements = judged.slice();
  for (const event of events) {
    if (event.undo !== undefined) {
      const index = judgements.findIndex((judgement) => judgement.id === event.undo);
      if (index >= 0) judgements.splice(index, 1);
    } else if (!judgements.some((judgement) => judgement.number === event.number)) {
      judgements.push(event);
    }
  }
  return judgements;
}

/** Returns the events of both lists, each once. */
export function mergeEvents(events, more) {
  const ids = new Set(events.map((event) => event.id));
  return [...events, ...more.filter((event) => !ids.has(event.id))];
}

/** Parses stored events. Returns none if the text is not valid or belongs to another study. */
export function parseEvents(text, key) {
  try {
    const { key: studyKey, events } = JSON.parse(text);
    return studyKey === key && Array.isArray(events) ? events : [];
  } catch {
    return [];
  }
}

/** Returns 128 random bits. crypto.randomUUID is missing if another machine serves the page without https. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Returns the file of a study's unsent events in the user's data. Any key but the server's 32 hex digits
 * could lead to another file of the user.
 */
export function eventFile(key) {
  if (!/^[0-9a-f]{32}$/.test(key)) {
    throw new Error(translate("The key of this study is damaged. Give the study another name."));
  }
  return `instructbrush/preference-${key}.json`;
}
