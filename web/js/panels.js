// Panels in nodes, and the results of runs that they show.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { everyNode, locatorOf } from "./graph.js";
import { after } from "./nodes.js";

/** Node -> the functions that show its results. */
const receivers = new WeakMap();

/** The prompts that this page has sent: all, and those of each workflow. */
const sent = new Set();
const sentBy = new WeakMap();

/** Node -> its own last output. */
const last = new WeakMap();

/** Outputs of other workflows. ComfyUI gives them to the nodes of the open one that have the same ids. */
const foreign = new WeakSet();

/** Call once, before ComfyUI itself listens to the server. */
export function followPrompts() {
  const queue = api.queuePrompt;
  api.queuePrompt = async function (...given) {
    const workflow = openWorkflow();
    const answer = await queue.apply(this, given);
    if (answer?.prompt_id && workflow) {
      sent.add(answer.prompt_id);
      if (!sentBy.has(workflow)) sentBy.set(workflow, new Set());
      sentBy.get(workflow).add(answer.prompt_id);
    }
    return answer;
  };
  api.addEventListener("executed", ({ detail }) => {
    if (detail?.output && isForeign(detail.prompt_id)) foreign.add(detail.output);
  });
}

/** Whether a prompt was sent from a workflow that is not the open one. */
export function isForeign(prompt) {
  return sent.has(prompt) && !sentBy.get(openWorkflow())?.has(prompt);
}

function openWorkflow() {
  return app.extensionManager?.workflow?.activeWorkflow;
}

/**
 * Adds a panel to a node as a widget that is neither saved with the workflow nor sent with the prompt.
 * 20 px of the height are margin. A panel whose height is a function does not grow with the node.
 */
export function addPanel(node, name, root, height) {
  const widget = node.addDOMWidget(name, "instructbrush", root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => (typeof height === "function" ? height() : height),
    getMaxHeight: () => (typeof height === "function" ? height() : 2 * height),
  });
  widget.serialize = false;
  // The classic renderer sizes a new node before extensions add widgets. A loaded node gets its size later.
  const [width, tall] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(tall, node.size[1])]);
  return widget;
}

/** Keeps the canvas from dragging the node when the pointer works in a panel. */
export function keepPointer(root) {
  root.addEventListener("pointerdown", (event) => event.stopPropagation());
}

/**
 * Calls `show` with the node's UI output after each run, also when ComfyUI answers from its cache, and again
 * when undo or a change of the workflow has made the node anew.
 */
export function onResult(node, show) {
  receivers.set(node, [...(receivers.get(node) ?? []), show]);
  after(node, "onExecuted", (output) => {
    if (foreign.has(output)) keepOwn(node);
    else {
      last.set(node, output);
      show(output ?? {});
    }
  });
}

/** Takes a foreign output back from what ComfyUI restores after undo. */
function keepOwn(node) {
  if (!app.nodeOutputs) return;
  if (last.has(node)) app.nodeOutputs[locatorOf(node)] = last.get(node);
  else delete app.nodeOutputs[locatorOf(node)];
}

/** Shows the last results again in nodes that were made anew. Call when a workflow was opened. */
export function restoreResults() {
  // ComfyUI brings the outputs of a workflow back after it has told extensions that the workflow is open.
  setTimeout(() => {
    for (const node of everyNode()) {
      const output = receivers.has(node) && app.nodeOutputs?.[locatorOf(node)];
      if (!output) continue;
      last.set(node, output);
      for (const show of receivers.get(node)) show(output);
    }
  });
}
