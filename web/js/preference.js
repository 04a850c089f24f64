// The panel of Judge Preference: the results of two or more methods side by side, judged by click or key.
//
// A judgement is written at once into the node's hidden `judgements` widget, part of the workflow and
// the prompt, and into the user's data on the server, where it survives when the page is closed. A run of the
// node stores the judgements in the study. Each event has an id, so that no event counts twice.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addPanel, element, loadStyle, nodeOf, onResult } from "./dom.js";

const NODE = "InstructBrushPreference";
const WIDTH = 640;
const HEIGHT = 380;
/** Height of a node that shows its images in two rows. */
const TALL = 900;

const ORDINALS = ["First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth"];
const UNDO = { text: "Undo", key: "0" };
const PAIR_CHOICES = {
  left: { text: "First", key: "1" },
  tie: { text: "Tie", key: "2" },
  right: { text: "Second", key: "3" },
  undo: UNDO,
};

/**
 * Returns choice -> text and key of its button, in the order of the buttons.
 * A vote for the best of all images has a choice for each of them, "1" for the first.
 */
export function choicesOf(vote, images) {
  if (vote !== "best") return PAIR_CHOICES;
  const numbers = Array.from({ length: images }, (_, index) => String(index + 1));
  // Object keys that are numbers always come first, so Undo stays the last one.
  return { ...Object.fromEntries(numbers.map((key) => [key, { text: ORDINALS[key - 1], key }])), undo: UNDO };
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
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Returns the file of a study's unsent events in the user's data. The key is hex digits from the server. */
function eventFile(key) {
  return `instructbrush/preference-${key}.json`;
}

export class PreferencePanel {
  /**
   * @param widget the hidden widget of the judgements
   * @param run runs only this node, to store them
   * @param grow makes the node tall enough for two rows of images
   */
  constructor(widget, run, grow) {
    this.widget = widget;
    this.run = run;
    this.grow = grow;
    /** Output of the node's last run. */
    this.data = null;
    /** Events that are not in the study yet. */
    this.events = [];
    /** The last write to the user's data. */
    this.writing = Promise.resolve();
    /** Whether the user's data has a file of events. */
    this.hasFile = false;
    /** Number of draws, to detect that a newer draw has started. */
    this.draws = 0;
    this.words = element("div", { class: "ib-words", text: "Run the graph to begin" });
    this.bar = element("progress", { class: "ib-bar", max: 1, value: 0 });
    this.instruction = element("div", { class: "ib-instruction" });
    this.question = element("div", { class: "ib-question" });
    this.row = element("div", { class: "ib-sides" });
    this.table = element("table", { class: "ib-ratings" });
    this.choiceRow = element("div", { class: "ib-choices" });
    this.store = button("Continue a stored study", () => this.send());
    this.large = button("Full screen", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else this.root.requestFullscreen();
    });
    this.root = element(
      "div",
      { class: "ib-panel ib-preference", tabindex: "0" },
      this.words,
      this.bar,
      this.instruction,
      this.question,
      this.row,
      this.table,
      this.choiceRow,
    );
    this.arrange("pairs", 2);
    this.root.addEventListener("keydown", (event) => this.pressed(event));
    // Otherwise a click drags the node.
    this.root.addEventListener("pointerdown", (event) => event.stopPropagation());
    this.draw();
  }

  /** Makes places for the source and this many images, and the buttons of the vote. */
  arrange(vote, count) {
    if (this.vote === vote && this.images?.length === count + 1) return;
    this.vote = vote;
    this.images = ["Source", ...ORDINALS.slice(0, count)].map((name) => element("img", { alt: name }));
    this.sides = this.images.map((image) => {
      return element("figure", {}, image, element("figcaption", { text: image.alt }));
    });
    this.row.replaceChildren(...this.sides);
    this.row.classList.toggle("ib-many", count > 3);
    if (count > 3) this.grow();
    this.choices = choicesOf(vote, count);
    this.buttons = {};
    for (const [choice, { text, key }] of Object.entries(this.choices)) {
      this.buttons[choice] = button(text, () => this.act(choice), `Key ${key}`);
    }
    this.choiceRow.replaceChildren(...Object.values(this.buttons), this.store, this.large);
  }

  /** Shows the output of a run of the node: the comparisons in order, and the stored judgements. */
  async show(data) {
    if (this.data?.key !== data.key) {
      const response = await api.getUserData(eventFile(data.key)).catch(() => null);
      const text = response?.ok ? await response.text() : "";
      this.hasFile = Boolean(text);
      this.events = mergeEvents(parseEvents(text, data.key), parseEvents(this.widget.value, data.key));
    }
    this.data = data;
    if (data.comparisons.length) this.arrange(data.vote, data.comparisons[0].images.length - 1);
    const stored = new Set(data.known);
    this.events = this.events.filter((event) => !stored.has(event.id));
    this.keep();
    this.draw();
  }

  get judged() {
    return this.data ? applyEvents(this.data.judged, this.events) : [];
  }

  /** Number of the next comparison; -1 if none is left. */
  get next() {
    const judged = new Set(this.judged.map((judgement) => judgement.number));
    return this.data ? this.data.comparisons.findIndex((_, number) => !judged.has(number)) : -1;
  }

  act(choice) {
    // A focused button that becomes disabled would swallow the next key.
    this.root.focus({ preventScroll: true });
    const last = this.judged.at(-1);
    if (choice !== "undo") this.events.push({ id: newId(), number: this.next, choice });
    else if (last) this.events.push({ id: newId(), undo: last.id });
    this.keep();
    this.draw();
    if (this.data && this.next < 0) this.send();
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const choice = Object.keys(this.choices).find((name) => this.choices[name].key === event.key);
    if (!choice) return;
    event.preventDefault();
    event.stopPropagation();
    // A key that is held down counts once.
    if (!event.repeat) this.buttons[choice].click();
  }

  async send() {
    try {
      await this.run(this.data?.study);
    } catch (error) {
      this.words.textContent = `Not stored yet: ${error.message ?? error}`;
    }
  }

  /** Writes the unsent events to the workflow and, one write at a time, to the user's data. */
  keep() {
    const { key } = this.data;
    const text = this.events.length ? JSON.stringify({ key, events: this.events }) : "";
    this.widget.value = text;
    app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
    if (!text && !this.hasFile) return;
    this.hasFile = Boolean(text);
    const options = { overwrite: true, stringify: false, throwOnError: true, full_info: false };
    const file = eventFile(key);
    const write = () => (text ? api.storeUserData(file, text, options) : api.deleteUserData(file));
    this.writing = this.writing.then(write).catch((error) => {
      this.words.textContent = `Saved in the workflow only: ${error.message}`;
    });
  }

  draw() {
    const { comparisons = [], ratings = null, remark = "", study = "" } = this.data ?? {};
    const judged = this.judged;
    const comparison = comparisons[this.next];
    const finished = this.data !== null && !comparison;
    const rated = finished && ratings && !this.events.length;
    if (this.data) {
      const parts = [study, `${judged.length} of ${comparisons.length}`, remark];
      this.words.textContent = parts.filter(Boolean).join(" · ");
    }
    this.bar.max = Math.max(comparisons.length, 1);
    this.bar.value = judged.length;
    this.instruction.textContent = comparison?.instruction ?? "";
    this.question.textContent = comparison ? this.questionOf(comparison) : "";
    this.store.hidden = this.data !== null && (!finished || rated);
    this.store.textContent = this.data ? "Show the ratings" : "Continue a stored study";
    this.table.replaceChildren(...(rated ? rows(this.vote, ratings, this.data.by_criterion) : []));
    this.enable(false, judged.length > 0);
    const files = comparison?.images ?? [];
    for (const [index, image] of this.images.entries()) {
      this.sides[index].hidden = !files[index];
      if (files[index]) image.src = this.address(files[index]);
      else image.removeAttribute("src");
    }
    this.row.hidden = !comparison;
    this.draws += 1;
    if (comparison) this.enableWhenLoaded(this.draws);
  }

  /** Returns what the judge is asked; empty for a plain comparison of two images. */
  questionOf({ criterion }) {
    if (!criterion) return this.vote === "best" ? "Which one is the best?" : "";
    const question = this.data.questions[criterion];
    return question ? `${criterion}: ${question}` : criterion;
  }

  /** Enables the buttons once all images are visible, then loads the images of the next comparison. */
  async enableWhenLoaded(draw) {
    const images = this.images.filter((image) => image.hasAttribute("src"));
    try {
      await Promise.all(images.map((image) => image.decode()));
    } catch {
      if (draw === this.draws) {
        this.words.textContent = "An image of this comparison is missing. Run the graph again.";
      }
      return;
    }
    if (draw !== this.draws) return;
    this.enable(true, this.judged.length > 0);
    const following = this.data.comparisons[this.next + 1];
    for (const file of following?.images ?? []) if (file) new Image().src = this.address(file);
  }

  enable(choices, undo) {
    for (const choice of Object.keys(this.choices)) {
      this.buttons[choice].disabled = choice === "undo" ? !undo : !choices;
    }
  }

  address(filename) {
    const query = new URLSearchParams({ filename, subfolder: this.data.folder, type: "output" });
    return api.apiURL(`/view?${query}`);
  }
}

function button(text, act, title = "") {
  const made = element("button", { type: "button", text, title });
  made.addEventListener("click", act);
  return made;
}

/** Returns the rows of the table of ratings, best method first. */
function rows(vote, ratings, byCriterion) {
  const row = (tag, cells) => element("tr", {}, ...cells.map((text) => element(tag, { text })));
  const best = vote === "best";
  const bestFirst = [...ratings].sort((one, other) => (best ? other.won - one.won : other.mu - one.mu));
  const score = ({ mu, sigma }) => `${mu.toFixed(1)} ± ${sigma.toFixed(1)}`;
  const percent = ({ share }) => (share === null ? "-" : `${(100 * share).toFixed(0)} %`);
  const figure = best ? percent : score;
  const criteria = Object.keys(byCriterion);
  if (criteria.length) {
    const of = (criterion, method) => byCriterion[criterion].find((rating) => rating.method === method);
    const cells = (rating) => [rating.method, ...criteria.map((each) => figure(of(each, rating.method)))];
    return [
      row("th", ["Method", ...criteria, "all"]),
      ...bestFirst.map((rating) => row("td", [...cells(rating), figure(rating)])),
    ];
  }
  if (best) {
    return [
      row("th", ["Method", "Chosen", "Share", "TrueSkill"]),
      ...bestFirst.map((rating) => row("td", [rating.method, rating.won, percent(rating), score(rating)])),
    ];
  }
  return [
    row("th", ["Method", "TrueSkill", "Won", "Tied", "Lost"]),
    ...bestFirst.map((rating) =>
      row("td", [rating.method, score(rating), rating.won, rating.tied, rating.lost]),
    ),
  ];
}

/** Runs one node without its links. This stores judgements without generating the images again. */
async function runAlone(node, study) {
  const { output, workflow } = await app.graphToPrompt();
  const id = Object.keys(output).find((candidate) => nodeOf(candidate) === node);
  if (!id) throw new Error("the node is muted or bypassed");
  const isLink = Array.isArray;
  const inputs = Object.fromEntries(Object.entries(output[id].inputs).filter(([, value]) => !isLink(value)));
  inputs.study ??= study;
  await api.queuePrompt(0, { output: { [id]: { ...output[id], inputs } }, workflow });
}

app.registerExtension({
  name: "InstructBrush.Preference",

  setup() {
    loadStyle();
  },

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const widget = node.widgets.find(({ name }) => name === "judgements");
    const grow = () => node.setSize([node.size[0], Math.max(TALL, node.size[1])]);
    const panel = new PreferencePanel(widget, (study) => runAlone(node, study), grow);
    node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
    addPanel(node, "preference", panel.root, HEIGHT);
    onResult(node, ({ preference }) => preference && panel.show(preference[0]));
  },
});
