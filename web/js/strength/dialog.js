// The strength strip of a subgraph's node, in a dialog: such a node can have no panel of its own.
import { button, element } from "../dom.js";
import { after } from "../nodes.js";
import { translate } from "../translate.js";
import { StrengthStrip } from "./strip.js";
import { settingOf } from "./settings.js";

/** Host -> its last dialog. */
const dialogs = new WeakMap();
/** Hosts that close their dialog when they are removed. */
const followed = new WeakSet();

/**
 * Opens the strip for the node in a subgraph that applies the instruction. `closed(strip)` is called once.
 */
export function openStrength(host, inside, segments, closed) {
  document.querySelector(".ib-strength-dialog")?.close();
  const strip = new StrengthStrip(inside, () => {}, host);
  strip.segments = segments;
  const title = element("span", { text: host.title });
  const label = translate("Close");
  const close = button("×", () => dialog.close(), { title: label, "aria-label": label });
  const head = element("header", {}, title, close);
  const dialog = element("dialog", { class: "ib-strength-dialog ib-strength" }, head, strip.root);
  dialog.setAttribute("aria-label", translate("Strength of the instruction"));
  const escape = (event) => event.key === "Escape" && dialog.close();
  dialog.addEventListener("keydown", escape, true);
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // no key reaches the canvas
  dialog.addEventListener("close", () => {
    strip.close();
    closed(strip);
    dialog.remove();
  });
  // By its deletion, by undo, or with another workflow.
  dialogs.set(host, dialog);
  if (!followed.has(host)) after(host, "onRemoved", () => dialogs.get(host)?.close());
  followed.add(host);
  document.body.append(dialog);
  strip.refresh();
  dialog.show(); // the canvas stays in use
  return strip;
}

/** Returns the node in a subgraph that applies an instruction, if its strength is set in `host`. */
export function strengthInside(host, types) {
  const nodes = host?.subgraph?.nodes?.filter((node) => types.includes(node.comfyClass)) ?? [];
  return nodes.find((node) => settingOf(node, "strength", host)?.node === host);
}
