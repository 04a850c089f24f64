// The gallery: search, filters, unfinished runs and cards. The dialog and the sidebar show the same view.
import { app } from "../../../../scripts/app.js";
import { button, element, iconButton } from "../dom.js";
import { translate } from "../translate.js";
import { makeCard, makeRun, titleOf } from "./card.js";
import { store } from "./store.js";

/** Cards that are made at once; the next ones follow when the end comes into sight. */
const PAGE = 60;
const TOAST_MILLISECONDS = 12_000;
/** Most characters that a workflow's name takes from a file. */
const MOST_NAME = 60;
const collator = new Intl.Collator(undefined, { numeric: true });

export class GalleryView {
  /**
   * `use(card)` takes a card. `opened()` is called when a workflow was opened. `drag(event, card)` begins to
   * drag a card; without it cards stay where they are. `family` is that of the connected model, or null.
   */
  constructor({ use, useLabel, opened, renamed, drag = null, family = null }) {
    Object.assign(this, { use, useLabel, opened, renamed, drag, family });
    const hint = translate("Search names and words");
    const search = { type: "search", class: "ibg-search", placeholder: hint, "aria-label": hint };
    this.search = element("input", search);
    this.families = element("select", { "aria-label": translate("Family") });
    this.order = element("select", { "aria-label": translate("Order") });
    this.order.append(option("date", translate("Newest first")), option("name", translate("By name")));
    const star = { class: "ibg-icon", "aria-pressed": "false" };
    this.stars = iconButton("star", translate("Only favorites"), () => this.toggleStars(), star);
    this.count = element("span", { class: "ibg-count", role: "status" });
    this.shelf = element("section", { class: "ibg-shelf", "aria-label": translate("Unfinished") });
    this.grid = element("section", { class: "ibg-grid", "aria-label": translate("Instructions") });
    this.end = element("div", { class: "ibg-end" });
    this.body = element("div", { class: "ibg-scroll" }, this.shelf, this.grid, this.end);
    this.toast = element("div", { class: "ibg-toast", role: "status", hidden: "" });
    const tools = [this.search, this.stars, this.families, this.order, this.count];
    const bar = element("div", { class: "ibg-tools" }, ...tools);
    this.root = element("div", { class: "ibg-gallery" }, bar, this.body, this.toast);
    // ComfyUI's shortcuts, such as R and Delete, would act on the graph.
    this.root.addEventListener("keydown", (event) => event.key === "Escape" || event.stopPropagation());
    for (const input of [this.search, this.families, this.order]) {
      input.addEventListener("input", () => this.draw());
    }
    this.changed = () => this.draw();
    this.watcher = new IntersectionObserver(([entry]) => entry.isIntersecting && this.more());
  }

  /** Shows the list and keeps it up to date until `close`. */
  async show() {
    store.addEventListener("change", this.changed);
    this.watcher.observe(this.end);
    if (store.loaded) this.draw();
    else this.count.textContent = translate("Reading …");
    try {
      await store.load();
    } catch (error) {
      this.say(error.message);
    }
  }

  close() {
    store.removeEventListener("change", this.changed);
    this.watcher.disconnect();
    clearTimeout(this.timer);
  }

  toggleStars() {
    const on = this.stars.getAttribute("aria-pressed") !== "true";
    this.stars.setAttribute("aria-pressed", String(on));
    this.draw();
  }

  draw() {
    const focused = this.focused();
    this.fillFamilies();
    const family = this.families.value;
    const starred = this.stars.getAttribute("aria-pressed") === "true";
    const wanted = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (card) => {
      if (family && !card.parts?.some((part) => part.family === family)) return false;
      if (starred && !store.favorites.has(card.name)) return false;
      const text = `${card.name} ${card.title ?? ""} ${card.words ?? ""}`.toLowerCase();
      return wanted.every((word) => text.includes(word));
    };
    this.left = store.cards.filter(fits).sort(this.compare());
    const { length } = this.left;
    const all = store.cards.length;
    this.count.textContent = length === all ? `${all}` : translate("{length} of {all}", { length, all });
    const before = this.grid.childElementCount; // as many again, so that the list does not jump
    this.grid.replaceChildren();
    if (!length) this.grid.append(element("p", { class: "ibg-empty", text: emptyText(all) }));
    this.more(Math.max(PAGE, before));
    const runs = store.unfinished.map((run) => makeRun(run, this));
    this.shelf.replaceChildren(element("h3", { text: translate("Unfinished") }), ...runs);
    this.shelf.hidden = !runs.length || starred || Boolean(wanted.length);
    this.refocus(focused);
  }

  more(count = PAGE) {
    const next = (this.left ?? []).splice(0, count);
    this.grid.append(...next.map((card) => makeCard(card, this)));
  }

  compare() {
    if (this.order.value === "name") return (a, b) => collator.compare(a.name, b.name);
    return (a, b) => (b.modified ?? 0) - (a.modified ?? 0) || collator.compare(a.name, b.name);
  }

  fillFamilies() {
    const chosen = this.families.value;
    const found = new Set(store.cards.flatMap((card) => card.parts?.map((part) => part.family) ?? []));
    const options = [...found].sort().map((family) => option(family, family));
    this.families.replaceChildren(option("", translate("All families")), ...options);
    this.families.value = found.has(chosen) ? chosen : "";
  }

  /** The place of the keyboard: a card's name and the number of its button. */
  focused() {
    const card = document.activeElement?.closest?.("[data-name]");
    if (!card || !this.root.contains(card)) return null;
    return [card.dataset.name, [...card.querySelectorAll("button")].indexOf(document.activeElement)];
  }

  refocus(focused) {
    if (focused) this.cardOf(focused[0])?.querySelectorAll("button")[Math.max(0, focused[1])]?.focus();
  }

  cardOf(name) {
    return [...this.root.querySelectorAll("[data-name]")].find((card) => card.dataset.name === name);
  }

  /** Renames a card's file. Returns whether the title may be shown again. */
  async rename(card, newName) {
    try {
      const name = await store.rename(card.name, newName);
      this.renamed(card.name, name);
      this.cardOf(name)?.querySelector(".ibg-use")?.focus();
      return true;
    } catch (error) {
      this.say(error.message);
      return false;
    }
  }

  async trash(card) {
    try {
      const undo = await store.trash(card.name);
      const name = card.stem ? card.words || card.stem : titleOf(card);
      this.say(translate("'{name}' is in the trash.", { name }), undo);
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Opens a file's own workflow as a new one, as ComfyUI does when a file is dropped: nothing is lost. */
  async open(card, resume = false) {
    let graph;
    try {
      graph = await store.graphOf(card.name);
    } catch (error) {
      this.say(error.message);
      return;
    }
    this.opened();
    try {
      await this.load(graph, card);
    } catch (error) {
      this.say(error.message);
      return;
    }
    if (!resume) return;
    const detail = translate("Run it: learning goes on at step {steps}.", { steps: card.steps });
    app.extensionManager.toast.add({ severity: "info", summary: translate("Resume"), detail, life: 8000 });
  }

  async load(graph, card) {
    const resumed = () => translate("Resume {words}", { words: plainName(card.words ?? "") || card.stem });
    const title = card.stem ? resumed() : plainName(titleOf(card).split("/").pop());
    if (graph.workflow) await app.loadGraphData(graph.workflow, true, true, title);
    else await app.loadApiJson(graph.prompt, title);
  }

  say(text, undo = null) {
    clearTimeout(this.timer);
    const hide = () => (this.toast.hidden = true);
    this.toast.replaceChildren(element("span", { text }));
    if (undo) {
      const back = () => undo().then(hide, (error) => this.say(error.message));
      this.toast.append(button(translate("Undo"), back, { class: "ibg-use" }));
    }
    this.toast.hidden = false;
    this.toast.querySelector("button")?.focus();
    this.timer = setTimeout(hide, TOAST_MILLISECONDS);
  }
}

/** Makes a text fit for the name of a file. */
function plainName(text) {
  const plain = text.replace(/[\s\\/:*?"<>|\x00-\x1f]+/g, " ").trim();
  return [...plain].slice(0, MOST_NAME).join("").trim();
}

function option(value, text) {
  return element("option", { value, text });
}

function emptyText(all) {
  if (all) return translate("Nothing matches.");
  return translate("There are no instructions yet. Learn one, and keep it with Save Instruction.");
}
