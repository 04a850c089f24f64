// What the gallery knows: the list of the server, the favorites of the user, and the actions on a file.
import { api } from "../../../../scripts/api.js";
import { get, post } from "../server.js";

const ROUTE = "/instructbrush/gallery";
const FAVORITES = "instructbrush/favorites.json";

/** Fires "change" after the list was read again or a favorite changed. */
class GalleryStore extends EventTarget {
  constructor() {
    super();
    this.cards = [];
    this.unfinished = [];
    this.families = {};
    this.favorites = new Set();
    this.loaded = false;
    this.text = "";
    this.keeping = Promise.resolve();
  }

  /** Reads the list again. Calls while it is being read wait for the same answer. */
  load() {
    this.reading ??= this.read().finally(() => (this.reading = null));
    return this.reading;
  }

  /** Reads the list after a change: an answer that is under way may be older. */
  async reload() {
    await this.reading?.catch(() => {});
    return this.load();
  }

  /** Reads the list unless it is known. */
  ready() {
    return this.loaded ? Promise.resolve() : this.load();
  }

  async read() {
    const first = !this.loaded;
    const [list, favorites] = await Promise.all([get(ROUTE), first && readFavorites().catch(console.warn)]);
    if (favorites) this.favorites = favorites;
    // Drawing the same list again would take an open card, or a button, away under the pointer.
    const text = JSON.stringify(list);
    if (!first && text === this.text) return;
    Object.assign(this, list, { text, loaded: true });
    this.dispatchEvent(new Event("change"));
  }

  /** Stars `added` and unstars `removed` at once, and keeps that in the user's data, call after call. */
  changeFavorites({ added = [], removed = [] }) {
    this.star(added, removed);
    const kept = this.keeping.then(() => this.keepFavorites(added, removed));
    this.keeping = kept.catch(() => {});
    return kept;
  }

  async keepFavorites(added, removed) {
    try {
      const names = await readFavorites(); // another tab may have added some
      for (const name of removed) names.delete(name);
      for (const name of added) names.add(name);
      const options = { overwrite: true, stringify: true, throwOnError: true };
      await api.storeUserData(FAVORITES, [...names].sort(), options);
    } catch (error) {
      this.star(removed, added);
      throw error;
    }
  }

  star(added, removed) {
    for (const name of removed) this.favorites.delete(name);
    for (const name of added) this.favorites.add(name);
    this.dispatchEvent(new Event("change"));
  }

  /** Returns the card or unfinished run of a file, if it is listed. */
  find(name) {
    return [...this.cards, ...this.unfinished].find((card) => card.name === name);
  }

  /** Names for the list of Load Instruction. */
  names() {
    const runs = this.unfinished.filter((run) => run.parts).map((run) => run.name);
    return [...this.cards.map((card) => card.name), ...runs].sort();
  }

  async rename(name, newName) {
    const answer = await post(`${ROUTE}/rename`, { name, new_name: newName });
    if (this.favorites.has(name) && answer.name !== name) {
      // The file has its new name, whatever becomes of the star.
      await this.changeFavorites({ added: [answer.name], removed: [name] }).catch(console.warn);
    }
    await this.reload();
    return answer.name;
  }

  /** Moves a file to the trash. Returns a function that brings it back. */
  async trash(name) {
    const { trashed } = await post(`${ROUTE}/trash`, { name });
    await this.reload();
    return async () => {
      await post(`${ROUTE}/restore`, { trashed });
      await this.reload();
    };
  }

  /** Returns { workflow } of a file's header, or { prompt } if it has no workflow. */
  graphOf(name) {
    return get(`${ROUTE}/workflow?${new URLSearchParams({ name })}`);
  }

  /** Returns the family of a model of Load InstructPix2Pix, or null. */
  async familyOf(model) {
    const { family } = await get(`${ROUTE}/family?${new URLSearchParams({ model })}`);
    return family;
  }
}

async function readFavorites() {
  const response = await api.getUserData(FAVORITES);
  const { ok, status, statusText } = response;
  if (status === 404) return new Set(); // the user has none yet
  if (!ok) throw new Error(`Error reading user data file '${FAVORITES}': ${status} ${statusText}`);
  const names = await response.json().catch(() => []);
  return new Set(Array.isArray(names) ? names : []);
}

export const store = new GalleryStore();

/** Returns the address of a card's thumbnail. It changes when the file does, so browsers keep it. */
export function thumbnailOf({ name, version }) {
  return api.apiURL(`${ROUTE}/thumbnail?${new URLSearchParams({ name, v: version })}`);
}
