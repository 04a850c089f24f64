// How many segments the instruction of a node has, before the node has run.
import { sourceOf } from "../graph.js";
import { LOAD, nameWidget } from "../gallery/nodes.js";
import { store } from "../gallery/store.js";

/** Returns the number for a file that Load Instruction loads; null if it is known only after a run. */
export async function segmentsOf(node) {
  if (!node.graph) return null;
  const place = node.inputs?.findIndex((input) => input.name === "instruction") ?? -1;
  const source = place < 0 ? null : sourceOf(node, place);
  if (source?.comfyClass !== LOAD) return null;
  await store.ready().catch(() => {});
  return store.find(nameWidget(source)?.value)?.segments ?? null;
}
