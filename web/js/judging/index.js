// Adds the panel to Judge Preference nodes.
import { app } from "../../../../scripts/app.js";
import { api } from "../../../../scripts/api.js";
import { loadStyle } from "../dom.js";
import { nodeOf } from "../graph.js";
import { widgetOf } from "../nodes.js";
import { addPanel, onResult } from "../panels.js";
import { translate } from "../translate.js";
import { PreferencePanel } from "./panel.js";

const NODE = "InstructBrushPreference";
const WIDTH = 640;
const HEIGHT = 460;
/** Height of a node that shows its images in two rows. */
const TALL = 960;
/** Largest height of the text field of the instructions. */
const LINES_HEIGHT = 90;

/**
 * Runs one node without its links. This stores judgements without generating the images again. The other
 * nodes are in the prompt, but do not run: ComfyUI forgets the results of nodes that a prompt leaves out.
 */
async function runAlone(node, study) {
  const { output, workflow } = await app.graphToPrompt();
  const id = Object.keys(output).find((candidate) => nodeOf(candidate) === node);
  if (!id) throw new Error(translate("This node does not run: it is muted or bypassed."));
  const isLink = Array.isArray;
  const inputs = Object.fromEntries(Object.entries(output[id].inputs).filter(([, value]) => !isLink(value)));
  inputs.study ??= study;
  const whole = { ...output, [id]: { ...output[id], inputs } };
  await api.queuePrompt(0, { output: whole, workflow }, { partialExecutionTargets: [id] });
}

/** Adds the panel to a Judge Preference node. */
export function addJudging(node) {
  if (node.comfyClass !== NODE) return;
  loadStyle("judging");
  const widget = widgetOf(node, "judgements");
  const grow = () => node.setSize([node.size[0], Math.max(TALL, node.size[1])]);
  const panel = new PreferencePanel(widget, (study) => runAlone(node, study), grow);
  node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
  const added = addPanel(node, "preference", panel.root, HEIGHT);
  // Images are as large as the node allows.
  added.options.getMaxHeight = () => Number.MAX_SAFE_INTEGER;
  const lines = widgetOf(node, "instructions");
  if (lines?.options) lines.options.getMaxHeight = () => LINES_HEIGHT;
  onResult(node, ({ preference }) => preference && panel.show(preference[0]));
}
