// The pairs board in Load Edit Pairs. It shows what the server reads in the chosen folder, and writes what
// the user decides into the node's hidden input "board".
import { element } from "../dom.js";
import { isLinked, rememberChange, setValue, widgetOf } from "../nodes.js";
import { get } from "../server.js";
import { translateSentence } from "../translate.js";
import { Additions } from "./additions.js";
import { SizeAdvice } from "./advice.js";
import { arranged, moved, parseBoard, starred, toggled, writeBoard } from "./decisions.js";
import { Dragging } from "./dragging.js";
import { TEXTS } from "./texts.js";
import { tile } from "./tiles.js";

export class PairsBoard {
  constructor(node) {
    this.node = node;
    /** The server's answer for the chosen folder. */
    this.survey = null;
    /** Whether the folder was chosen by the user or by a workflow, and not only by being the first one. */
    this.chosen = false;
    /** What the node said after its last run. */
    this.result = "";
    /** The pairs that are used, unless their size is set. */
    this.pairsToSize = [];
    /** Number of answers asked for, to drop old ones. */
    this.asked = 0;
    this.words = element("div", { class: "ib-words", role: "status" });
    this.advice = new SizeAdvice(node, (side) => this.#set("size", side));
    this.says = element("div", { class: "ib-pairs-says", role: "status", hidden: "" });
    this.tiles = element("div", { class: "ib-pairs-grid", role: "list", "data-capture-wheel": "true" });
    this.additions = new Additions(this);
    const parts = [this.words, this.advice.root, this.says, this.tiles, this.additions.root];
    this.root = element("div", { class: "ib-panel ib-pairs", tabindex: "0" }, ...parts);
    const move = (key, place) => this.decide(moved(this.board, this.survey.pairs, key, place));
    this.dragging = new Dragging(this.tiles, move);
    this.additions.listen(this.root);
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
    this.advise();
    this.say([this.additions.failed, sentence]);
    this.tiles.replaceChildren(this.#hint(TEXTS.drop()));
    this.additions.showTarget();
  }

  say(sentences) {
    const text = sentences.filter(Boolean).join("\n");
    this.says.textContent = text;
    this.says.title = text;
    this.says.hidden = !text;
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
    this.say([this.additions.failed, ...[...sentences].map(translateSentence)]);
    this.pairsToSize = sized ? [] : used;
    this.advise();
    this.additions.showTarget();
  }

  /** Offers a size; call it also when the graph may have another model. */
  advise() {
    this.advice.show(this.survey ? this.pairsToSize : []);
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
    else this.say(text.split("\n").map(translateSentence));
  }

  /** Sets a widget as a user would, in one step of ComfyUI's undo. */
  #set(name, value) {
    setValue(this.node, widgetOf(this.node, name), value);
    rememberChange();
    this.draw();
  }

  /** Keeps the user's decisions in the node. */
  decide(board) {
    this.additions.forgive();
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
    else if (what === "mask") this.additions.chooseMask(pair);
    else this.decide(toggled(board, what, key));
  }

  /** Uses the mask of a pair again, if it was left out. */
  useMask(key) {
    const { board } = this;
    if (board.no_mask.includes(key)) this.#set("board", writeBoard(toggled(board, "no_mask", key)));
  }

  /** Chooses a folder, which may be new. */
  choose(folder) {
    const widget = widgetOf(this.node, "folder");
    const values = widget.options.values;
    if (!values.includes(folder)) widget.options.values = [folder, ...values];
    this.chosen = true;
    if (widget.value !== folder) this.#set("folder", folder);
    this.refresh();
  }

  /** The pair under a dragged file; none if several files are dragged. */
  pairAt(event) {
    const count = [...(event.dataTransfer?.items ?? [])].filter((item) => item.kind === "file").length;
    const under = count === 1 && event.target.closest?.(".ib-pair");
    const place = under ? [...this.tiles.children].indexOf(under) : -1;
    return place < 0 || !this.survey ? null : arranged(this.survey.pairs, this.board)[place].pair;
  }

  /** Shows where the files of a drag would go; nowhere without a drag. */
  invite(event) {
    for (const each of [this.root, ...this.tiles.children]) each.classList.remove("ib-drop");
    if (!event) return;
    const pair = this.pairAt(event);
    const place = pair ? event.target.closest(".ib-pair") : this.root;
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
