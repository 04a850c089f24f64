// Adds the strength strip to Apply Instruction and Edit Guider.
import { app } from "../../../../scripts/app.js";
import { addPanel, loadStyle, onResult } from "../dom.js";
import { StrengthStrip } from "./strip.js";

const NODES = ["InstructBrushApply", "InstructBrushEditGuider"];

const MARGIN = 20;

const strips = new Set();

/** Call once. */
export function setupStrength() {
  loadStyle("strength");
}

/** Looks again at links and values of all nodes, after a workflow was loaded. */
export function refreshStrengths() {
  for (const strip of strips) strip.refresh(true);
}

/** Adds the strip to a node that applies an instruction. */
export function addStrengthStrip(node) {
  if (!NODES.includes(node.comfyClass)) return;
  const strip = new StrengthStrip(node, (growth, loading) => resize(node, growth, loading));
  strips.add(strip);
  addPanel(node, "strength_strip", strip.root, () => strip.height + MARGIN);
  strip.refresh();
  after(node, "onConfigure", () => strip.refresh(true));
  // A loaded workflow connects its nodes before all of them are there.
  after(node, "onConnectionsChange", () => {
    const loading = Boolean(app.configuringGraph);
    queueMicrotask(() => node.graph && strip.refresh(loading));
  });
  after(node, "onRemoved", () => {
    strips.delete(strip);
    strip.close();
  });
  onResult(node, (output) => strip.showResult(output));
}

/** Gives the node the height that its strip needs. A node that is being loaded has room for it already. */
function resize(node, growth, loading) {
  const least = node.computeSize()[1];
  const grown = loading ? node.size[1] : node.size[1] + growth;
  node.setSize([node.size[0], Math.max(least, grown)]);
  node.setDirtyCanvas?.(true, true);
}

function after(node, name, act) {
  const before = node[name];
  node[name] = function (...given) {
    const answer = before?.apply(this, given);
    act();
    return answer;
  };
}
