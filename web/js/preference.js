// The panel of Judge Preference: two results side by side, judged by click or key. A judgement goes at once into the node's hidden `judgements` widget, which
// travels with the workflow and the prompt, and into the user's data on the server, where a closed page leaves it. A run of the node stores them in the
// study; every one has an id, so that none counts twice.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { addPanel, element, loadStyle, nodeOf, onResult } from "./dom.js";

const NODE = "InstructBrushPreference";
const WIDTH = 640;
const HEIGHT = 380;

/** Button -> its words and key. The keys are in the order of the buttons. */
const CHOICES = { left: ["First", "1"], tie: ["Tie", "2"], right: ["Second", "3"], undo: ["Undo", "0"] };

/** What stands after events that the server does not know yet: judgements in the order they were made, one for each comparison. */
export function standing(judged, events) {
  const found = judged.slice();
  for (const event of events) {
    if (event.undo !== undefined) {
      const place = found.findIndex((each) => each.id === event.undo);
      if (place >= 0) found.splice(place, 1);
    } else if (!found.some((each) => each.number === event.number)) {
      found.push(event);
    }
  }
  return found;
}

/** Events of both lists, each once. */
export function united(events, more) {
  const ids = new Set(events.map((event) => event.id));
  return [...events, ...more.filter((event) => !ids.has(event.id))];
}

/** The events that a text holds for a study; none when it is another's, or no such text. */
export function eventsOf(text, key) {
  try {
    const { key: of, events } = JSON.parse(text);
    return of === key && Array.isArray(events) ? events : [];
  } catch {
    return [];
  }
}

/** 128 random bits. crypto.randomUUID is missing where the page comes from another machine without https. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Where the user's data keep what a study has not been told. The key is hexadecimal digits from the server. */
function keptAt(key) {
  return `instructbrush/preference-${key}.json`;
}

export class PreferencePanel {
  /** widget: the hidden one of the judgements; run: stores them by a run of this node alone. */
  constructor(widget, run) {
    this.widget = widget;
    this.run = run;
    this.data = null;
    this.events = [];
    this.kept = Promise.resolve();
    this.wrote = false;
    this.drawn = 0;
    this.words = element("div", { class: "ib-words", text: "Run the graph to begin" });
    this.bar = element("progress", { class: "ib-bar", max: 1, value: 0 });
    this.instruction = element("div", { class: "ib-instruction" });
    this.images = ["Source", "First", "Second"].map((name) => element("img", { alt: name }));
    this.sides = this.images.map((image) => element("figure", {}, image, element("figcaption", { text: image.alt })));
    this.row = element("div", { class: "ib-sides" }, ...this.sides);
    this.table = element("table", { class: "ib-ratings" });
    this.buttons = Object.fromEntries(
      Object.entries(CHOICES).map(([choice, [text, key]]) => [choice, button(text, () => this.act(choice), `Key ${key}`)]),
    );
    this.store = button("Continue a stored study", () => this.send());
    this.large = button("Full screen", () => (document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen()));
    this.root = element(
      "div",
      { class: "ib-panel ib-preference", tabindex: "0" },
      this.words,
      this.bar,
      this.instruction,
      this.row,
      this.table,
      element("div", { class: "ib-choices" }, ...Object.values(this.buttons), this.store, this.large),
    );
    this.root.addEventListener("keydown", (event) => this.pressed(event));
    // Otherwise a press drags the node.
    this.root.addEventListener("pointerdown", (event) => event.stopPropagation());
    this.draw();
  }

  /** What a run of the node gave: the comparisons in their order, and what the study has been told. */
  async show(data) {
    if (this.data?.key !== data.key) {
      const response = await api.getUserData(keptAt(data.key)).catch(() => null);
      const text = response?.ok ? await response.text() : "";
      this.wrote = Boolean(text);
      this.events = united(eventsOf(text, data.key), eventsOf(this.widget.value, data.key));
    }
    this.data = data;
    const known = new Set(data.known);
    this.events = this.events.filter((event) => !known.has(event.id));
    this.keep();
    this.draw();
  }

  get judged() {
    return this.data ? standing(this.data.judged, this.events) : [];
  }

  /** Number of the comparison that is asked next; -1 when none is left. */
  get next() {
    const judged = new Set(this.judged.map((each) => each.number));
    return this.data ? this.data.comparisons.findIndex((_, number) => !judged.has(number)) : -1;
  }

  act(choice) {
    // A button that becomes disabled would swallow the next key.
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
    const choice = Object.keys(CHOICES).find((each) => CHOICES[each][1] === event.key);
    if (!choice) return;
    event.preventDefault();
    event.stopPropagation();
    // A key that is held down judges once.
    if (!event.repeat) this.buttons[choice].click();
  }

  async send() {
    try {
      await this.run(this.data?.study);
    } catch (error) {
      this.words.textContent = `Not stored yet: ${error.message ?? error}`;
    }
  }

  /** Keep what the study has not been told, in the workflow and on the server; writes wait for each other. */
  keep() {
    const { key } = this.data;
    const text = this.events.length ? JSON.stringify({ key, events: this.events }) : "";
    this.widget.value = text;
    app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
    if (!text && !this.wrote) return;
    this.wrote = Boolean(text);
    const options = { overwrite: true, stringify: false, throwOnError: true, full_info: false };
    const write = () => (text ? api.storeUserData(keptAt(key), text, options) : api.deleteUserData(keptAt(key)));
    this.kept = this.kept.then(write).catch((error) => {
      this.words.textContent = `Kept in the workflow only: ${error.message}`;
    });
  }

  draw() {
    const { comparisons = [], ratings = null, remark = "", study = "" } = this.data ?? {};
    const judged = this.judged;
    const comparison = comparisons[this.next];
    const finished = this.data !== null && !comparison;
    const rated = finished && ratings && !this.events.length;
    if (this.data) this.words.textContent = [study, `${judged.length} of ${comparisons.length}`, remark].filter(Boolean).join(" · ");
    this.bar.max = Math.max(comparisons.length, 1);
    this.bar.value = judged.length;
    this.instruction.textContent = comparison?.instruction ?? "";
    this.store.hidden = this.data !== null && (!finished || rated);
    this.store.textContent = this.data ? "Show the ratings" : "Continue a stored study";
    this.table.replaceChildren(...(rated ? rows(ratings) : []));
    this.enable(false, judged.length > 0);
    const files = comparison?.images ?? [];
    for (const [index, image] of this.images.entries()) {
      this.sides[index].hidden = !files[index];
      if (files[index]) image.src = this.address(files[index]);
      else image.removeAttribute("src");
    }
    this.row.hidden = !comparison;
    this.drawn += 1;
    if (comparison) this.ask(this.drawn);
  }

  /** Only what is seen can be judged. The images of the next question are fetched meanwhile. */
  async ask(drawn) {
    try {
      await Promise.all(this.images.filter((image) => image.hasAttribute("src")).map((image) => image.decode()));
    } catch {
      if (drawn === this.drawn) this.words.textContent = "An image of this comparison is missing. Run the graph again.";
      return;
    }
    if (drawn !== this.drawn) return;
    this.enable(true, this.judged.length > 0);
    const later = this.data.comparisons[this.next + 1];
    for (const file of later?.images ?? []) if (file) new Image().src = this.address(file);
  }

  enable(choices, undo) {
    for (const choice of Object.keys(CHOICES)) this.buttons[choice].disabled = choice === "undo" ? !undo : !choices;
  }

  address(filename) {
    return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder: this.data.folder, type: "output" })}`);
  }
}

function button(text, act, title = "") {
  const made = element("button", { type: "button", text, title });
  made.addEventListener("click", act);
  return made;
}

function rows(ratings) {
  const line = (name, cells) => element("tr", {}, ...cells.map((text) => element(name, { text })));
  const best = [...ratings].sort((one, other) => other.mu - one.mu);
  return [
    line("th", ["Method", "TrueSkill", "Won", "Tied", "Lost"]),
    ...best.map((each) => line("td", [each.method, `${each.mu.toFixed(1)} ± ${each.sigma.toFixed(1)}`, each.won, each.tied, each.lost])),
  ];
}

/** Runs one node without what it is connected to: judgements reach their study, and the images are not made again. */
async function runAlone(node, study) {
  const { output, workflow } = await app.graphToPrompt();
  const id = Object.keys(output).find((each) => nodeOf(each) === node);
  if (!id) throw new Error("the node is muted or bypassed");
  const inputs = Object.fromEntries(Object.entries(output[id].inputs).filter(([, value]) => !Array.isArray(value)));
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
    const panel = new PreferencePanel(widget, (study) => runAlone(node, study));
    node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
    addPanel(node, "preference", panel.root, HEIGHT);
    onResult(node, ({ preference }) => preference && panel.show(preference[0]));
  },
});
