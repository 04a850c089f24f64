// The pairs board in Load Edit Pairs. It shows what the server reads in the chosen folder, uploads dropped
// images, and writes what the user decides into the node's hidden input "board".
import { button, element } from "../dom.js";
import { everyNode } from "../graph.js";
import { isLinked, rememberChange, setValue, widgetOf } from "../nodes.js";
import { arranged, moved, parseBoard, starred, toggled, writeBoard } from "./decisions.js";
import { Dragging } from "./dragging.js";
import { get, post } from "../server.js";
import { TEXTS } from "./texts.js";
import { tile } from "./tiles.js";
import { translateSentence } from "../translate.js";
import { chosenImages, droppedImages, hasFiles, upload } from "./uploads.js";

const NEW_FOLDER = "my_pairs";
const POCKET = /^pocket( \w+)? editor/;

export class PairsBoard {
  constructor(node) {
    this.node = node;
    /** The server's answer for the chosen folder. */
    this.survey = null;
    /** Whether the folder was chosen by the user or by a workflow, and not only by being the first one. */
    this.chosen = false;
    /** What the node said after its last run. */
    this.result = "";
    /** What went wrong with the user's last images, and the folder that it concerns. */
    this.failure = { sentence: "", folder: "" };
    /** Number of answers asked for, to drop old ones. */
    this.asked = 0;
    this.words = element("div", { class: "ib-words", role: "status" });
    this.advice = element("div", { class: "ib-pairs-advice", hidden: "" });
    this.says = element("div", { class: "ib-pairs-says", role: "status", hidden: "" });
    this.tiles = element("div", { class: "ib-pairs-grid", role: "list", "data-capture-wheel": "true" });
    this.picker = element("input", { type: "file", multiple: "", accept: "image/*", hidden: "" });
    const choose = () => this.#pick((images) => this.addImages(images));
    this.add = button(TEXTS.add(), choose, { title: TEXTS.addTitle() });
    const target = { class: "ib-pairs-target", spellcheck: "false", title: TEXTS.targetTitle() };
    this.target = element("input", { ...target, "aria-label": TEXTS.targetTitle() });
    const into = element("span", { text: TEXTS.target() });
    const foot = element("div", { class: "ib-pairs-foot" }, this.add, into, this.target);
    const parts = [this.words, this.advice, this.says, this.tiles, foot, this.picker];
    this.root = element("div", { class: "ib-panel ib-pairs", tabindex: "0" }, ...parts);
    const move = (key, place) => this.decide(moved(this.board, this.survey.pairs, key, place));
    this.dragging = new Dragging(this.tiles, move);
    this.#listen();
  }

  #value(name) {
    return widgetOf(this.node, name)?.value;
  }

  get board() {
    return parseBoard(this.#value("board"));
  }

  get folder() {
    return this.#value("folder");
  }

  /** Reads the folder again, once for all calls of one moment. */
  refresh() {
    const asked = ++this.asked;
    this.result = "";
    setTimeout(() => asked === this.asked && this.#read(asked));
  }

  async #read(asked) {
    if (isLinked(this.node, "folder")) {
      this.#fail(TEXTS.byWire());
      return;
    }
    if (!this.survey) this.words.textContent = TEXTS.loading();
    const query = new URLSearchParams({ folder: this.folder ?? "" });
    let answer, failure;
    try {
      answer = await get(`/instructbrush/pairs?${query}`);
    } catch (error) {
      failure = error.message;
    }
    if (asked !== this.asked) return;
    if (failure) {
      this.#fail(failure);
      return;
    }
    this.survey = answer;
    this.draw();
  }

  #fail(sentence) {
    this.survey = null;
    this.words.textContent = "";
    this.advice.hidden = true;
    this.#say([this.#failed, sentence]);
    this.tiles.replaceChildren(this.#hint(TEXTS.drop()));
    this.#showTarget();
  }

  #say(sentences) {
    const text = sentences.filter(Boolean).join("\n");
    this.says.textContent = text;
    this.says.title = text;
    this.says.hidden = !text;
  }

  /** Says what went wrong with the user's images, until a decision or the next images. */
  #complain(sentence) {
    this.failure = { sentence, folder: this.folder };
    this.#say([sentence]);
  }

  get #failed() {
    return this.failure.folder === this.folder ? this.failure.sentence : "";
  }

  #hint(text) {
    return element("div", { class: "ib-pairs-hint", role: "listitem", text });
  }

  /** Shows the last answer with the board's decisions. */
  draw() {
    if (!this.survey) return;
    const { board, survey } = this;
    const pairs = arranged(survey.pairs, board);
    const fit = this.#value("fit") ?? "stop";
    const sized = Boolean(this.#value("size")) || isLinked(this.node, "size");
    const context = { survey, board, fit, sized, act: (...given) => this.#act(...given) };
    const focused = this.#focused();
    const tiles = pairs.map((each) => tile(each, context));
    if (!survey.own) tiles.push(this.#hint(TEXTS.dropOwn()));
    this.tiles.replaceChildren(...tiles);
    this.#focus(focused);
    const complete = survey.pairs.filter((pair) => pair.key !== "");
    const used = complete.filter((pair) => !board.skip.includes(pair.key) && pair.problem !== "file");
    const out = used.find((pair) => pair.key === board.held_out);
    const words = [TEXTS.pairs(complete.length)];
    if (used.length < complete.length) words.push(TEXTS.used(used.length));
    if (out) words.push(TEXTS.out(out.name));
    this.words.textContent = words.join(" · ");
    const sentences = new Set([...survey.remarks, ...this.result.split("\n")]);
    this.#say([this.#failed, ...[...sentences].map(translateSentence)]);
    this.#advise(used, sized);
    this.#showTarget();
  }

  /** Call when a wire of the node was connected or removed. */
  followWires() {
    const linked = isLinked(this.node, "folder");
    if (linked === this.linked) this.draw();
    else this.refresh();
    this.linked = linked;
  }

  /** Shows what the node says after a run. */
  showResult(text) {
    this.result = text;
    if (this.survey) this.draw();
    else this.#say(text.split("\n").map(translateSentence));
  }

  /** Offers a size if the images are far larger than the model's. */
  #advise(pairs, sized) {
    const models = [...everyNode()].map((node) => widgetOf(node, "model_name")?.value);
    const pocket = models.some((name) => POCKET.test(String(name)));
    const side = pocket ? 128 : 512;
    const files = pairs.flatMap((pair) => [pair.before, pair.after]).filter((file) => file?.width);
    const [largest] = files.sort((one, other) => other.width * other.height - one.width * one.height);
    const most = pocket ? 256 : 1024;
    this.advice.hidden = sized || !largest || Math.max(largest.width, largest.height) <= most;
    if (this.advice.hidden) return;
    const use = button(TEXTS.useSize(side), () => this.#set("size", side));
    const words = element("span", { text: TEXTS.large(`${largest.width} x ${largest.height}`, side) });
    this.advice.replaceChildren(words, use);
  }

  #showTarget() {
    if (document.activeElement === this.target) return;
    this.target.value = this.#addable() ? this.folder : this.#freeName();
  }

  /** Whether dropped images go to the chosen folder. */
  #addable() {
    const layout = this.survey?.layout;
    return this.chosen && Boolean(this.survey?.own) && (layout === "names" || layout === "order");
  }

  #freeName() {
    const taken = new Set(widgetOf(this.node, "folder")?.options?.values ?? []);
    let name = NEW_FOLDER;
    for (let number = 2; taken.has(name); number++) name = `${NEW_FOLDER}_${number}`;
    return name;
  }

  /** Sets a widget as a user would, in one step of ComfyUI's undo. */
  #set(name, value) {
    setValue(this.node, widgetOf(this.node, name), value);
    rememberChange();
    this.draw();
  }

  /** Keeps the user's decisions in the node. */
  decide(board) {
    this.failure.sentence = "";
    this.#set("board", writeBoard(board));
  }

  #act(what, pair, given) {
    const { board } = this;
    const { key } = pair;
    if (what === "drag") this.dragging.start(given, key);
    else if (what === "step") {
      const keys = arranged(this.survey.pairs, board).map((each) => each.pair.key);
      this.decide(moved(board, this.survey.pairs, key, keys.indexOf(key) + given));
    } else if (what === "star") this.decide(starred(board, key));
    else if (what === "mask" && pair.mask) this.decide(toggled(board, "no_mask", key));
    else if (what === "mask") this.#pick((images) => this.#addMask(pair, images), false);
    else this.decide(toggled(board, what, key));
  }

  #pick(use, multiple = true) {
    this.picker.multiple = multiple;
    this.picker.value = "";
    this.picker.onchange = () => use(chosenImages(this.picker.files));
    this.picker.click();
  }

  /** Uploads images into the named folder and chooses it. */
  async addImages(images) {
    const folder = this.target.value.trim().replace(/^\/+|\/+$/g, "");
    if (!images.length || !folder) {
      this.#complain(images.length ? TEXTS.noName() : TEXTS.noImages());
      return;
    }
    const uploaded = await this.#upload(images, folder);
    if (!this.node.graph) return; // it was deleted meanwhile
    this.target.blur();
    if (uploaded) this.#choose(folder);
    else this.refresh();
  }

  /** Returns whether at least one image was uploaded. */
  async #upload(images, folder, overwrite = false) {
    const progress = (done, all) => (this.words.textContent = TEXTS.uploading(done, all));
    const failures = await upload(images, folder, { overwrite, progress });
    const [first] = failures;
    const uploaded = failures.length < images.length;
    const sentence = first ? TEXTS.failed(first.name, first.why) : "";
    this.failure = { sentence, folder: uploaded ? folder : this.folder };
    return uploaded;
  }

  #choose(folder) {
    const widget = widgetOf(this.node, "folder");
    const values = widget.options.values;
    if (!values.includes(folder)) widget.options.values = [folder, ...values];
    this.chosen = true;
    if (widget.value !== folder) this.#set("folder", folder);
    this.refresh();
  }

  async #addMask(pair, images) {
    const place = pair.mask_place;
    let reason = "";
    if (images.length !== 1) reason = TEXTS.oneMask();
    else if (!this.survey.own) reason = TEXTS.notOwn();
    else if (!place) reason = TEXTS.noMaskPlace();
    if (reason) {
      this.#complain(reason);
      return;
    }
    const { folder } = this.survey;
    if (pair.mask) {
      try {
        await post("/instructbrush/pairs/trash_mask", { folder, key: pair.key });
      } catch (error) {
        this.#complain(error.message);
        return;
      }
    }
    await this.#upload([{ file: images[0].file, path: place }], folder, true);
    const { board } = this;
    if (board.no_mask.includes(pair.key)) this.#set("board", writeBoard(toggled(board, "no_mask", pair.key)));
    this.refresh();
  }

  /** Takes dropped files: the mask or the missing image of a pair, or new images. */
  async takeDrop(event) {
    const pair = this.#pairAt(event);
    let images;
    try {
      images = await droppedImages(event);
    } catch (error) {
      this.#complain(TEXTS.unreadable(error.message));
      return;
    }
    if (pair && images.length === 1) {
      if (pair.key !== "") await this.#addMask(pair, images);
      else await this.#addPartner(pair, images[0]);
    } else await this.addImages(images);
  }

  async #addPartner(pair, image) {
    const [ending] = /\.[^.]+$/.exec(image.path);
    const path = pair.missing ? pair.missing.replace(/\.[^.]+$/, ending) : image.path;
    if (!this.survey.own) this.#complain(TEXTS.notOwn());
    else {
      await this.#upload([{ file: image.file, path }], this.survey.folder);
      this.refresh();
    }
  }

  /** Adds pasted images. Among names that say before or after, they need names that say it, too. */
  async #paste(images) {
    const alone = images.length === 1 && this.survey?.pairs.find((pair) => pair.missing);
    if (this.survey?.layout !== "names" || this.target.value !== this.survey.folder) {
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

  /** The pair under a dragged file; none if several files are dragged. */
  #pairAt(event) {
    const count = [...(event.dataTransfer?.items ?? [])].filter((item) => item.kind === "file").length;
    const under = count === 1 && event.target.closest?.(".ib-pair");
    const place = under ? [...this.tiles.children].indexOf(under) : -1;
    return place < 0 || !this.survey ? null : arranged(this.survey.pairs, this.board)[place].pair;
  }

  #listen() {
    this.target.addEventListener("keydown", (event) => event.stopPropagation());
    this.root.addEventListener("paste", (event) => {
      if (event.target === this.target || !event.clipboardData?.files.length) return;
      event.preventDefault();
      event.stopPropagation();
      this.#paste(chosenImages(event.clipboardData.files, true));
    });
    this.root.addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      const pair = this.#pairAt(event);
      this.#invite(pair ? event.target.closest(".ib-pair") : this.root, pair);
    });
    this.root.addEventListener("dragleave", () => this.#invite(null));
    this.root.addEventListener("drop", (event) => {
      this.#invite(null);
      if (!hasFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.takeDrop(event);
    });
  }

  #invite(place, pair) {
    for (const each of [this.root, ...this.tiles.children]) each.classList.remove("ib-drop");
    if (!place) return;
    place.classList.add("ib-drop");
    place.dataset.drop = !pair ? TEXTS.dropHere() : pair.key ? TEXTS.dropMask() : TEXTS.dropPartner();
  }

  #focused() {
    const pressed = document.activeElement?.closest?.(".ib-pair-button");
    if (!pressed || !this.tiles.contains(pressed)) return null;
    return { key: pressed.closest(".ib-pair").dataset.key, act: pressed.dataset.act };
  }

  #focus(focused) {
    if (!focused) return;
    const at = [...this.tiles.children].find((each) => each.dataset.key === focused.key);
    at?.querySelector(`[data-act="${focused.act}"]`)?.focus();
  }
}
