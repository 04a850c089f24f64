// Which family of models the instruction of a node meets, as far as the graph shows it.
import { everyNode, linkOf, sourceOf } from "../graph.js";
import { widgetOf } from "../nodes.js";
import { translate } from "../translate.js";
import { store } from "./store.js";

const INSTRUCTION = "INSTRUCTBRUSH_INSTRUCTION";
const PAIRS = "INSTRUCTBRUSH_PAIRS";

/** Nodes that load a model: their widget, and what Load InstructPix2Pix writes before the same name. */
const LOADERS = {
  InstructBrushLoadModel: { widget: "model_name", folder: "" },
  CheckpointLoaderSimple: { widget: "ckpt_name", folder: "checkpoints/" },
};

/** Model -> promise of its family, so that each is asked for once. */
const known = new Map();

/** Returns the family of the model that takes the node's instruction; null if the graph does not show one. */
export function connectedFamily(node) {
  return familyOf(modelOf(consumers(node, INSTRUCTION)));
}

/** Returns the size that the model is made for that learns from the node's pairs, else the first model in the
 * graph; null if there is none. */
export async function sideForPairs(node) {
  const family = await familyOf(modelOf(consumers(node, PAIRS)) || modelOf(everyNode()));
  if (family) await store.ready();
  return store.families[family]?.side ?? null;
}

/** Returns the family of the model that the node is given; null if the graph does not show one. */
export function familyAbove(node) {
  return familyOf(loadedBy(node, new Set()));
}

async function familyOf(model) {
  if (!model) return null;
  if (!known.has(model)) known.set(model, store.familyOf(model));
  try {
    return await known.get(model);
  } catch {
    known.delete(model); // the next node asks again
    return null;
  }
}

/** Returns why an instruction does not fit a family, or "". */
export function misfit(card, family) {
  const model = store.families[family];
  if (!model) return "";
  const wrong = (card.parts ?? []).find((part) => {
    // Learned text states act in every model with text states of the same width.
    if (part.space === "text") return store.families[part.family]?.width !== model.width;
    return part.family !== family;
  });
  if (!wrong) return "";
  const own = store.families[wrong.family]?.title ?? wrong.family;
  const values = { own, model: model.title };
  return translate("Learned on {own}; the connected model is {model}, where it cannot act.", values);
}

/** Nodes that take the node's output of a type, directly or through nodes that pass it on. */
function consumers(node, type, found = new Set()) {
  for (const output of node.outputs ?? []) {
    if (output.type !== type) continue;
    for (const id of output.links ?? []) {
      const target = node.graph?.getNodeById(linkOf(node.graph, id)?.target_id);
      if (!target || found.has(target)) continue;
      found.add(target);
      consumers(target, type, found);
    }
  }
  return found;
}

function modelOf(nodes) {
  for (const node of nodes) {
    const name = loadedBy(node, new Set());
    if (name) return name;
  }
  return "";
}

/** Follows the MODEL inputs upwards to a loader, and returns the name of its model. */
function loadedBy(node, seen) {
  const loader = LOADERS[node.comfyClass];
  if (loader) {
    const name = widgetOf(node, loader.widget)?.value;
    // On Windows, core's lists write backslashes.
    return name ? `${loader.folder}${String(name).replaceAll("\\", "/")}` : "";
  }
  seen.add(node);
  const inputs = node.inputs ?? [];
  for (const [place, input] of inputs.entries()) {
    if (input.link == null || !(input.type === "MODEL" || inputs.length === 1)) continue;
    const origin = sourceOf(node, place);
    const name = origin && !seen.has(origin) && loadedBy(origin, seen);
    if (name) return name;
  }
  return "";
}
