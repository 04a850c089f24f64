// The panel of Judge Preference: the results of two or more methods, judged by click or key.
//
// A judgement is written at once into the node's hidden `judgements` widget, part of the workflow and
// the prompt, and into the user's data on the server, where it survives when the page is closed. A run of the
// node stores the judgements in the study.
import { api } from "../../../../scripts/api.js";
import { button, element } from "../dom.js";
import { rememberChange } from "../nodes.js";
import { keepPointer } from "../panels.js";
import { viewOf } from "../server.js";
import { translate, translateSentence } from "../translate.js";
import { applyEvents, choicesOf, eventFile, mergeEvents, newId, parseEvents } from "./events.js";
import { ratingRows } from "./ratings.js";
import { Viewer } from "./viewer.js";

export class PreferencePanel {
  /**
   * @param widget the hidden widget of the judgements
   * @param run runs only this node, to store them
   * @param grow makes the node tall enough for two rows of images
   */
  constructor(widget, run, grow) {
    this.widget = widget;
    // A prompt carries what is not in the study yet, whatever undo made of the widget.
    widget.serializeValue = () => (this.data ? this.text : widget.value);
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
    /** Numbers of shows and draws, to detect that a newer one has started. */
    this.shows = 0;
    this.draws = 0;
    this.words = element("div", { class: "ib-words", role: "status" });
    this.words.textContent = translate("Run the graph to begin");
    this.bar = element("progress", { class: "ib-bar", max: 1, value: 0 });
    this.bar.setAttribute("aria-label", translate("Judged comparisons"));
    this.instruction = element("div", { class: "ib-instruction" });
    this.question = element("div", { class: "ib-question" });
    this.viewer = new Viewer();
    this.table = element("table", { class: "ib-ratings" });
    this.choiceRow = element("div", { class: "ib-choices" });
    this.store = button(translate("Continue a stored study"), () => this.send());
    this.large = button(translate("Full screen"), () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else this.root.requestFullscreen().catch(console.warn); // a browser may forbid it
    });
    this.root = element(
      "div",
      // With the focus in the panel, the wheel zooms the images and not the canvas.
      { class: "ib-panel ib-preference", tabindex: "0", "data-capture-wheel": "true" },
      this.viewer.root,
      this.instruction,
      this.question,
      this.table,
      this.choiceRow,
      this.bar,
      this.words,
    );
    this.arrange("pairs", 2);
    this.root.addEventListener("keydown", (event) => this.pressed(event));
    keepPointer(this.root);
    this.draw();
  }

  /** Makes places for the source and this many images, and the buttons of the vote. */
  arrange(vote, count) {
    if (this.vote === vote && this.viewer.images?.length === count + 1) return;
    this.vote = vote;
    this.viewer.arrange(count);
    if (count > 3) this.grow();
    this.choices = choicesOf(vote, count);
    this.buttons = {};
    for (const [choice, { text, key }] of Object.entries(this.choices)) {
      this.buttons[choice] = button(text, () => this.act(choice), { title: translate("Key {key}", { key }) });
    }
    this.choiceRow.replaceChildren(...Object.values(this.buttons), this.store, this.large);
  }

  /** Shows the output of a run of the node: the comparisons in order, and the stored judgements. */
  async show(data) {
    const show = ++this.shows;
    if (this.data?.key !== data.key) {
      let file;
      try {
        file = eventFile(data.key);
      } catch (error) {
        this.words.textContent = error.message;
        return;
      }
      const response = await api.getUserData(file).catch(() => null);
      const text = response?.ok ? await response.text() : "";
      if (show !== this.shows) return;
      this.hasFile = Boolean(text);
      this.events = mergeEvents(parseEvents(text, data.key), parseEvents(this.widget.value, data.key));
    }
    const anew = !this.data;
    this.data = data;
    if (data.comparisons.length) this.arrange(data.vote, data.comparisons[0].images.length - 1);
    const stored = new Set(data.known);
    this.events = this.events.filter((event) => !stored.has(event.id));
    // A node that undo made anew keeps its value. Another value would be a change, which ends Redo.
    if (!anew) this.widget.value = this.text;
    this.keep();
    this.draw();
  }

  /** The events that are not in the study yet, as the widget and the user's data keep them. */
  get text() {
    return this.events.length ? JSON.stringify({ key: this.data.key, events: this.events }) : "";
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
    this.widget.value = this.text;
    rememberChange();
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
      this.words.textContent = translate("Not stored yet: {reason}", { reason: error.message ?? error });
    }
  }

  /** Writes the unsent events to the user's data, one write at a time. */
  keep() {
    const { text } = this;
    if (!text && !this.hasFile) return;
    this.hasFile = Boolean(text);
    const options = { overwrite: true, stringify: false, throwOnError: true, full_info: false };
    const file = eventFile(this.data.key);
    const write = () => (text ? api.storeUserData(file, text, options) : api.deleteUserData(file));
    this.writing = this.writing.then(write).catch((error) => {
      const { message } = error;
      this.words.textContent = translate("Saved in the workflow only: {reason}", { reason: message });
    });
  }

  draw() {
    const { comparisons = [], ratings = null, remark = "", study = "" } = this.data ?? {};
    const judged = this.judged;
    const comparison = comparisons[this.next];
    const finished = this.data !== null && !comparison;
    const rated = finished && ratings && !this.events.length;
    if (this.data) {
      const counts = { done: judged.length, all: comparisons.length };
      const parts = [study, translate("{done} of {all}", counts), translateSentence(remark)];
      this.words.textContent = parts.filter(Boolean).join(" · ");
    }
    this.bar.max = Math.max(comparisons.length, 1);
    this.bar.value = judged.length;
    this.instruction.textContent = comparison?.instruction ?? "";
    this.question.textContent = comparison ? this.questionOf(comparison) : "";
    this.store.hidden = this.data !== null && (!finished || rated);
    this.store.textContent = this.data
      ? translate("Show the ratings")
      : translate("Continue a stored study");
    this.table.replaceChildren(...(rated ? ratingRows(this.vote, ratings, this.data.by_criterion) : []));
    this.enable(false, judged.length > 0);
    const files = comparison?.images ?? [];
    this.viewer.show(files.map((file) => (file ? this.address(file) : "")));
    this.draws += 1;
    if (comparison) this.enableWhenLoaded(this.draws);
  }

  /** Returns what the judge is asked; empty for a plain comparison of two images. */
  questionOf({ criterion }) {
    if (!criterion) return this.vote === "best" ? translate("Which one is the best?") : "";
    const question = this.data.questions[criterion];
    return question ? `${criterion}: ${question}` : criterion;
  }

  /** Enables the buttons once all images are visible, then loads the images of the next comparison. */
  async enableWhenLoaded(draw) {
    const images = this.viewer.images.filter((image) => image.hasAttribute("src"));
    try {
      await Promise.all(images.map((image) => image.decode()));
    } catch {
      if (draw === this.draws) {
        this.words.textContent = translate("An image of this comparison is missing. Run the graph again.");
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
    return viewOf({ filename, subfolder: this.data.folder, type: "output" });
  }
}
