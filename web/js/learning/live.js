// Connects the panels of the learning nodes to the server: messages, the state after a reload, buttons.
import { app } from "../../../../scripts/app.js";
import { api } from "../../../../scripts/api.js";
import { loadStyle } from "../dom.js";
import { nodeOf, rootGraph, sourceOf } from "../graph.js";
import { rememberChange, setValue, widgetOf } from "../nodes.js";
import { addPanel, onResult } from "../panels.js";
import { get, post } from "../server.js";
import { translate } from "../translate.js";
import { LearningPanel } from "./panel.js";

const ROUTE = "/instructbrush/learning";
const NODES = ["InstructBrushLearn", "InstructBrushLearnText", "InstructBrushLearnAdapter"];
const PAIRS = "InstructBrushLoadPairs";
const ENDED = ["done", "used", "best", "stopped"];
const MOST_NODES = 50;

/** Node -> its panel. */
const panels = new WeakMap();

/** Call once. */
export function setupLearning() {
  loadStyle("learning");
  api.addEventListener("instructbrush.learn", ({ detail }) => showMessage(detail));
}

/** Adds the panel to a learning node. */
export function addLearningPanel(node) {
  if (!NODES.includes(node.comfyClass)) return;
  const panel = new LearningPanel({
    act: (action, run) => act(panel.state.node, action, run),
    resize: {
      possible: () => Boolean(pairsAbove(node)),
      set: (size) => setSize(pairsAbove(node), size),
    },
  });
  panels.set(node, panel);
  addPanel(node, "learning", panel.root, 320).label = translate("Learning");
  onResult(node, ({ learning }) => learning && panel.show(learning[0]));
}

/**
 * Asks the server once for the runs that are active, and shows and follows them: a page may be opened in the
 * middle. Messages may then come twice, which does no harm.
 */
export async function restoreLearning() {
  const { runs } = await get(ROUTE).catch(() => ({ runs: [] }));
  for (const run of runs) showMessage(run);
  if (runs.length) follow();
}

let stream;

/** Receives the messages of active runs until one ends. */
function follow() {
  stream?.close();
  const events = new EventSource(api.apiURL(`${ROUTE}/events`));
  stream = events;
  events.onerror = () => events.close();
  events.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    showMessage(message);
    if (ENDED.includes(message.phase)) events.close();
  };
}

/** Shows a message of a run in its node. The open workflow may be another one with nodes of the same ids. */
export function showMessage(message) {
  const panel = panels.get(nodeOf(message.node));
  const { run, workflow } = message;
  if (!panel || (workflow && workflow !== rootGraph().id && run !== panel.run)) return;
  panel.show(message);
}

async function act(node, action, run) {
  await post(ROUTE, { node, run, action });
  if (action === "on") await runGraph();
}

/** Runs the graph. What queuePrompt returns also depends on other nodes and other requests. */
async function runGraph() {
  const waits = app.processingQueue;
  let queued = false;
  const note = () => (queued = true);
  api.addEventListener("promptQueued", note);
  try {
    await app.queuePrompt(0);
  } finally {
    api.removeEventListener("promptQueued", note);
  }
  if (!queued && !waits) throw new Error(translate("Nothing was run."));
}

/** Returns the Load Edit Pairs that the node's pairs come from, or undefined. */
function pairsAbove(node) {
  const pairs = node.inputs?.findIndex((input) => input.name === "pairs") ?? -1;
  let waiting = [pairs < 0 ? null : sourceOf(node, pairs)];
  for (let seen = 0; waiting.length && seen < MOST_NODES; seen++) {
    const above = waiting.shift();
    if (!above) continue;
    if (above.comfyClass === PAIRS) return above;
    waiting = [...waiting, ...(above.inputs ?? []).map((_, place) => sourceOf(above, place))];
  }
  return undefined;
}

function setSize(pairs, size) {
  if (!pairs) return;
  setValue(pairs, widgetOf(pairs, "size"), size);
  rememberChange();
}
