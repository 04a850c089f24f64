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
    const [list] = await Promise.all([get(ROUTE), this.loaded ? null : this.readFavorites()]);
    Object.assign(this, list, { loaded: true });
    this.dispatchEvent(new Event("change"));
  }

  async readFavorites() {
    const response = await api.getUserData(FAVORITES);
    if (!response.ok) return; // the user has none yet
    const names = await response.json().catch(() => []);
    this.favorites = new Set(Array.isArray(names) ? names : []);
  }

  async setFavorite(name, on) {
    await this.readFavorites(); // another tab may have set some
    const before = [...this.favorites];
    if (on) this.favorites.add(name);
    else this.favorites.delete(name);
    this.dispatchEvent(new Event("change"));
    const options = { overwrite: true, stringify: true, throwOnError: true };
    try {
      await api.storeUserData(FAVORITES, [...this.favorites].sort(), options);
    } catch (error) {
      this.favorites = new Set(before);
      this.dispatchEvent(new Event("change"));
      throw error;
    }
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
      this.favorites.delete(name);
      // The file has its new name, whatever becomes of the star.
      await this.setFavorite(answer.name, true).catch(console.warn);
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

  /** Returns { workflow, prompt } of a file's header. */
  graphOf(name) {
    return get(`${ROUTE}/workflow?${new URLSearchParams({ name })}`);
  }

  /** Returns the family of a model of Load InstructPix2Pix, or null. */
  async familyOf(model) {
    const { family } = await get(`${ROUTE}/family?${new URLSearchParams({ model })}`);
    return family;
  }
}

export const store = new GalleryStore();

/** Returns the address of a card's thumbnail. It changes when the file does, so browsers keep it. */
export function thumbnailOf({ name, version }) {
  return api.apiURL(`${ROUTE}/thumbnail?${new URLSearchParams({ name, v: version })}`);
}
