// Nodes with many inputs show a few of them, a line that tells what the others do, and a button that shows
// those. The button's state is kept in a property of the node.
import { app } from "../../../../scripts/app.js";
import { button, element } from "../dom.js";
import { familyAbove } from "../gallery/family.js";
import { after, isLinked, rememberChange, whileInGraph } from "../nodes.js";
import { onResult } from "../panels.js";
import { translate } from "../translate.js";
import { fit, growBy, hideWidgets } from "./hiding.js";
import { wordFor } from "./numbers.js";
import { beginWithPreset, described, isInput, presetOfAuto, RULES, standard, value } from "./rules.js";

const PROPERTY = "all inputs";
const HEIGHT = 46;
const MOST_NAMED = 2;
const LONGEST = 18;

/** The lines of all nodes in the graph. */
const shown = new Set();

/** Looks again at all nodes, because links, values or the model may have changed. */
export function refreshMore() {
  for (const each of shown) {
    each.refresh({ resize: false });
    fit(each.node, each.node.size[1]);
  }
}

/** Adds the line and the button to a node with many inputs. */
export function addMore(node) {
  if (!RULES[node.comfyClass]) return;
  const more = new MoreInputs(node, RULES[node.comfyClass]);
  whileInGraph(
    node,
    () => shown.add(more),
    () => shown.delete(more),
  );
  after(node, "onConnectionsChange", () => {
    const resize = !app.configuringGraph;
    queueMicrotask(() => more.refresh({ resize }));
  });
  after(node, "onConfigure", (saved) => more.configured(saved));
  onResult(node, ({ learning }) => learning && more.learned(learning[0]));
}

class MoreInputs {
  constructor(node, rule) {
    this.node = node;
    this.rule = rule;
    const inputs = node.widgets.filter((widget) => isInput(node, widget.name));
    this.names = new Set(inputs.map((widget) => widget.name));
    for (const widget of inputs) {
      // The button replaces the one that the Vue renderer has for advanced inputs.
      if (widget.options) widget.options.advanced = false;
      after(widget, "callback", () => this.refresh());
    }
    const preset = inputs.find((widget) => widget.name === "preset");
    if (preset) after(preset, "callback", () => this.presetChosen());
    this.preset = preset?.value;
    this.text = element("span", { class: "ib-summary" });
    this.button = button("", () => this.setOpen(!this.open));
    /** Number of families asked for, to drop old answers. */
    this.asked = 0;
    this.addLine();
    node.properties[PROPERTY] ??= Boolean(setting("Comfy.Node.AlwaysShowAdvancedWidgets"));
    this.refresh({ resize: false });
    fit(node, 0);
  }

  addLine() {
    const line = element("div", { class: "ib-more" }, this.text, this.button);
    const options = { serialize: false, hideOnZoom: false };
    const widget = this.node.addDOMWidget("more", "instructbrush", line, options);
    widget.serialize = false;
    // With these the line has one height in both renderers, also where panels share the room that is left.
    widget.computeLayoutSize = undefined;
    widget.computeSize = (width) => [width ?? 0, HEIGHT];
  }

  get open() {
    return Boolean(this.node.properties[PROPERTY]);
  }

  setOpen(open) {
    this.node.properties[PROPERTY] = open;
    this.refresh();
    rememberChange();
  }

  configured(saved) {
    const visible = () => this.node.widgets.filter((widget) => this.names.has(widget.name) && !widget.hidden);
    this.refresh({ resize: false });
    this.preset = value(this.node, "preset");
    // Saved before this property existed: the node was as high as all its inputs.
    if (saved?.properties?.[PROPERTY] === undefined) growBy(this.node, visible().length - this.names.size);
  }

  presetChosen() {
    const before = this.preset;
    this.preset = value(this.node, "preset");
    if (app.configuringGraph || this.preset !== "custom" || before === "custom") return;
    beginWithPreset(this.node, before, presetOfAuto(this.node, this));
  }

  /** Remembers what "auto" stood for in a run, until another model is connected. */
  learned({ preset }) {
    const auto = value(this.node, "preset") === "auto";
    this.used = auto ? { preset, model: linkIdOf(this.node, "model") } : undefined;
    this.refresh();
  }

  /** A saved size already has room for what is shown. */
  refresh({ resize = !app.configuringGraph } = {}) {
    const hidden = (name) => (this.names.has(name) ? this.isHidden(name) : undefined);
    hideWidgets(this.node, hidden, { resize });
    if (this.used && this.used.model !== linkIdOf(this.node, "model")) this.used = undefined;
    this.write();
    if (!this.names.has("preset")) return;
    const asked = ++this.asked;
    familyAbove(this.node).then((family) => {
      if (asked !== this.asked || family === this.family) return;
      this.family = family;
      this.write();
    });
  }

  isHidden(name) {
    if (this.rule.shown.includes(name)) return false;
    return !this.open || !this.rule.acts(this.node, name);
  }

  write() {
    const { open } = this;
    const changes = this.changes();
    const line = this.rule.line(this.node, this);
    const named = changes.length > MOST_NAMED ? changes.slice(0, MOST_NAMED - 1) : changes;
    const more = changes.length - named.length;
    const others = more && translate("{count} more changed", { count: more });
    const parts = [line, ...named, others].filter(Boolean);
    set(this.text, "textContent", parts.join(" · ") || this.rest());
    set(this.text, "title", [line, ...changes].filter(Boolean).join("\n"));
    set(this.button, "textContent", open ? translate("Show fewer") : translate("Change…"));
    const title = open ? translate("Hides the other inputs") : translate("Shows the other inputs");
    set(this.button, "title", title);
    this.button.setAttribute("aria-expanded", String(open));
  }

  /** What the inputs behind the button are set to, where they have an effect and differ from the default. */
  changes() {
    const { rule, node } = this;
    const told = [...rule.shown, ...(rule.named ?? []), ...(rule.silent ?? [])];
    return node.widgets
      .filter(({ name }) => this.names.has(name) && !told.includes(name))
      .filter(({ name }) => rule.acts(node, name) && !isLinked(node, name))
      .filter(({ name }) => value(node, name) !== standard(node, name))
      .map((widget) => `${widget.label ?? widget.name} ${wordFor(node, widget) ?? brief(widget)}`);
  }

  rest() {
    const { rule, node } = this;
    const others = [...this.names].filter((name) => !rule.shown.includes(name) && rule.acts(node, name));
    const count = others.filter((name) => !rule.silent?.includes(name)).length;
    return translate("{count} more inputs at their defaults", { count });
  }
}

function linkIdOf(node, name) {
  return node.inputs?.find((input) => input.name === name)?.link;
}

function brief({ type, value: given }) {
  if (typeof given === "boolean") return given ? translate("on") : translate("off");
  if (typeof given === "number") return String(Number(given.toFixed(6)));
  const text = String(given);
  const short = text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
  return type === "combo" ? short : `“${short}”`;
}

function set(target, key, text) {
  if (target[key] !== text) target[key] = text;
}

function setting(name) {
  return app.extensionManager?.setting?.get(name);
}
