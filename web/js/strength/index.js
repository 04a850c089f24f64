// Adds the strength strip to Apply Instruction and Edit Guider.
import { app } from "../../../../scripts/app.js";
import { api } from "../../../../scripts/api.js";
import { loadStyle } from "../dom.js";
import { after, whileInGraph } from "../nodes.js";
import { addPanel, onResult } from "../panels.js";
import { translate } from "../translate.js";
import { openStrength, strengthInside } from "./dialog.js";
import { StrengthStrip } from "./strip.js";

const NODES = ["InstructBrushApply", "InstructBrushEditGuider"];

const MARGIN = 20;

/** The strips of all nodes in the graph, and those in dialogs. */
const strips = new Set();

/** Call once. */
export function setupStrength() {
  loadStyle("strength");
  // Values may also change in the node of a subgraph, or by undo.
  const again = () => strips.forEach((strip) => strip.refresh());
  api.addEventListener("graphChanged", again);
  app.canvas?.canvas?.addEventListener("litegraph:set-graph", again);
}

/** Looks again at links and values of all nodes, after a workflow was loaded. */
export function refreshStrengths() {
  for (const strip of strips) strip.refresh(true);
}

/** The command of a subgraph's node with a strength, above the node when it is selected. */
export const STRENGTH_COMMAND = {
  id: "InstructBrush.Strength",
  icon: "pi pi-sliders-h",
  label: () => translate("Strength: slider and Try 5"),
  function() {
    const host = [...(app.canvas.selectedItems ?? [])].find((item) => strengthInside(item, NODES));
    if (host) open(host);
  },
};

/** The commands of a selected item. */
export function strengthCommands(item) {
  return strengthInside(item, NODES) ? [STRENGTH_COMMAND.id] : [];
}

/** The entries in a node's menu. */
export function strengthMenu(node) {
  if (!strengthInside(node, NODES)) return [];
  return [{ content: STRENGTH_COMMAND.label(), callback: () => open(node) }];
}

function open(host) {
  const inside = strengthInside(host, NODES);
  const known = [...strips].find((strip) => strip.node === inside)?.segments ?? null;
  strips.add(openStrength(host, inside, known, (strip) => strips.delete(strip)));
}

/** Adds the strip to a node that applies an instruction. */
export function addStrengthStrip(node) {
  if (!NODES.includes(node.comfyClass)) return;
  const strip = new StrengthStrip(node, (growth, loading) => resize(node, growth, loading));
  addPanel(node, "strength_strip", strip.root, () => strip.height + MARGIN);
  strip.refresh();
  after(node, "onConfigure", () => strip.refresh(true));
  // A loaded workflow connects its nodes before all of them are there.
  after(node, "onConnectionsChange", () => {
    const loading = Boolean(app.configuringGraph);
    queueMicrotask(() => node.graph && strip.refresh(loading));
  });
  whileInGraph(
    node,
    () => strips.add(strip),
    () => {
      strips.delete(strip);
      strip.close();
    },
  );
  onResult(node, (output) => strip.showResult(output));
}

/** Gives the node the height that its strip needs. A node that is being loaded has room for it already. */
function resize(node, growth, loading) {
  const least = node.computeSize()[1];
  const grown = loading ? node.size[1] : node.size[1] + growth;
  node.setSize([node.size[0], Math.max(least, grown)]);
  node.setDirtyCanvas?.(true, true);
}
