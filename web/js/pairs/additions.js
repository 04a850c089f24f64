// Adds the user's images to the pairs: dropped, pasted, or chosen in a dialog, as pairs, masks or partners.
import { button, element } from "../dom.js";
import { widgetOf } from "../nodes.js";
import { post } from "../server.js";
import { TEXTS } from "./texts.js";
import { chosenImages, droppedImages, freeNames, hasFiles, upload } from "./uploads.js";

const NEW_FOLDER = "my_pairs";

export class Additions {
  /** The mask that is added now. */
  #masks = Promise.resolve();

  /** `board` is the PairsBoard that shows the images. */
  constructor(board) {
    this.board = board;
    /** What went wrong with the last images, and the folder that it concerns. */
    this.failure = { sentence: "", folder: "" };
    this.picker = element("input", { type: "file", multiple: "", accept: "image/*", hidden: "" });
    const choose = () => this.#pick((images) => this.addImages(images));
    const add = button(TEXTS.add(), choose, { title: TEXTS.addTitle() });
    const target = { class: "ib-pairs-target", spellcheck: "false", title: TEXTS.targetTitle() };
    this.target = element("input", { ...target, "aria-label": TEXTS.targetTitle() });
    this.target.addEventListener("keydown", (event) => event.stopPropagation());
    const into = element("span", { text: TEXTS.target() });
    this.root = element("div", { class: "ib-pairs-foot" }, add, into, this.target, this.picker);
  }

  /** What went wrong in the chosen folder, or "". */
  get failed() {
    return this.failure.folder === this.board.folder ? this.failure.sentence : "";
  }

  /** Says what went wrong, until a decision or the next images. */
  #complain(sentence) {
    this.failure = { sentence, folder: this.board.folder };
    this.board.say([sentence]);
  }

  forgive() {
    this.failure.sentence = "";
  }

  /** Names the folder that new images go to, unless the user writes there. */
  showTarget() {
    if (document.activeElement === this.target) return;
    this.target.value = this.#addable() ? this.board.folder : this.#freeName();
  }

  /** Whether dropped images go to the chosen folder. */
  #addable() {
    const { chosen, survey } = this.board;
    return chosen && Boolean(survey?.own) && (survey.layout === "names" || survey.layout === "order");
  }

  #freeName() {
    const taken = new Set(widgetOf(this.board.node, "folder")?.options?.values ?? []);
    let name = NEW_FOLDER;
    for (let number = 2; taken.has(name); number++) name = `${NEW_FOLDER}_${number}`;
    return name;
  }

  #pick(use, multiple = true) {
    this.picker.multiple = multiple;
    this.picker.value = "";
    this.picker.onchange = () => use(chosenImages(this.picker.files));
    this.picker.click();
  }

  /** Uploads images into the named folder and chooses it. */
  async addImages(images) {
    const folder = this.target.value.trim().replaceAll("\\", "/").replace(/^\/+|\/+$/g, "");
    if (!images.length || !folder) {
      this.#complain(images.length ? TEXTS.noName() : TEXTS.noImages());
      return;
    }
    const uploaded = await this.#upload(images, folder);
    if (!this.board.node.graph) return; // it was deleted meanwhile
    this.target.blur();
    if (uploaded) this.board.choose(folder);
    else this.board.refresh();
  }

  /** Returns whether at least one image was uploaded. */
  async #upload(images, folder, overwrite = false) {
    const progress = (done, all) => (this.board.words.textContent = TEXTS.uploading(done, all));
    progress(0, images.length);
    const named = overwrite ? images : await freeNames(images, folder);
    const failures = await upload(named, folder, { overwrite, progress });
    const [first] = failures;
    const uploaded = failures.length < images.length;
    const sentence = first ? TEXTS.failed(first.name, first.why) : "";
    this.failure = { sentence, folder: uploaded ? folder : this.board.folder };
    return uploaded;
  }

  /** Lets the user choose the mask of a pair. */
  chooseMask(pair) {
    this.#pick((images) => this.#addMask(pair, images), false);
  }

  /** Adds masks one after the other: one of two for the same pair would be overwritten. */
  #addMask(pair, images) {
    const { survey } = this.board;
    const done = this.#masks.then(() => this.#replaceMask(pair, images, survey));
    this.#masks = done.catch(() => {});
    return done;
  }

  async #replaceMask(pair, images, survey) {
    let reason = "";
    if (images.length !== 1) reason = TEXTS.oneMask();
    else if (!survey.own) reason = TEXTS.notOwn();
    else if (!pair.mask_place) reason = TEXTS.noMaskPlace();
    if (reason) {
      this.#complain(reason);
      return;
    }
    const { folder } = survey;
    let trashed;
    try {
      // Also without a mask: there may be one meanwhile, and the upload overwrites it.
      ({ trashed } = await post("/instructbrush/pairs/trash_mask", { folder, key: pair.key }));
    } catch (error) {
      this.#complain(error.message);
      return;
    }
    if (pair.mask && trashed !== true) {
      this.#complain(TEXTS.maskMoved());
      this.board.refresh();
      return;
    }
    const uploaded = await this.#upload([{ file: images[0].file, path: pair.mask_place }], folder, true);
    if (uploaded) this.board.useMask(pair.key);
    else if (trashed) this.failure.sentence += ` ${TEXTS.oldMask()}`;
    this.board.refresh();
  }

  async #addPartner(pair, image) {
    const { survey } = this.board;
    if (!survey.own) {
      this.#complain(TEXTS.notOwn());
      return;
    }
    const [ending] = /\.[^.]+$/.exec(image.path);
    const path = pair.missing ? pair.missing.replace(/\.[^.]+$/, ending) : image.path;
    await this.#upload([{ file: image.file, path }], survey.folder);
    this.board.refresh();
  }

  /** Takes dropped files: the mask or the missing image of a pair, or new images. */
  async takeDrop(event) {
    const pair = this.board.pairAt(event);
    let images;
    try {
      images = await droppedImages(event);
    } catch (error) {
      this.#complain(TEXTS.unreadable(error.message));
      return;
    }
    if (!pair || images.length !== 1) await this.addImages(images);
    else if (pair.key !== "") await this.#addMask(pair, images);
    else await this.#addPartner(pair, images[0]);
  }

  /** Adds pasted images. Among names that say before or after, they need names that say it, too. */
  async #paste(images) {
    const { survey } = this.board;
    const alone = images.length === 1 && survey?.pairs.find((pair) => pair.missing);
    if (survey?.layout !== "names" || this.target.value !== survey.folder) {
      await this.addImages(images);
    } else if (alone) {
      await this.#addPartner(alone, images[0]);
    } else {
      // Images without a name of their own, two for each pair.
      const stamped = (index) => images[index - (index % 2)].path.replace(/(?=\.[^.]+$)/, sideOf(index));
      const sideOf = (index) => (index % 2 ? "_after" : "_before");
      const isNameless = ({ path }) => /^pasted \d/.test(path);
      const named = (each, index) => (isNameless(each) ? { ...each, path: stamped(index) } : each);
      await this.addImages(images.map(named));
    }
  }

  /** Listens for files on the board. */
  listen(root) {
    root.addEventListener("paste", (event) => {
      if (event.target === this.target || !event.clipboardData?.files.length) return;
      event.preventDefault();
      event.stopPropagation();
      this.#paste(chosenImages(event.clipboardData.files, true));
    });
    root.addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.board.invite(event);
    });
    root.addEventListener("dragleave", () => this.board.invite(null));
    root.addEventListener("drop", (event) => {
      this.board.invite(null);
      if (!hasFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.takeDrop(event);
    });
  }
}
