// Helpers that the panels share: creating elements without innerHTML, finding nodes, and receiving results.
import { app } from "../../../scripts/app.js";

const SVG = "http://www.w3.org/2000/svg";

/** element("div", { class: "x", text: "hello" }, child, ...) */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for an SVG element. */
export function drawing(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, { text, ...attributes }, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

/** Returns the node of a message. In subgraphs the id is a path: "12:5" is node 5 in node 12. */
export function nodeOf(executionId) {
  const path = String(executionId).split(":");
  const last = path.pop();
  let graph = app.rootGraph ?? app.graph;
  for (const step of path) graph = graph?.getNodeById(step)?.subgraph;
  return graph?.getNodeById(last) ?? null;
}

/** Returns the node that an input is connected to, also if the link comes from outside the subgraph. */
export function sourceOf(node, place) {
  const link = node.graph?.getLink?.(node.inputs[place]?.link);
  const { inputNode } = node.graph ?? {};
  if (!link || !inputNode || link.origin_id !== inputNode.id) return node.getInputNode(place);
  const host = (app.rootGraph ?? app.graph).nodes.find((each) => each.subgraph === node.graph);
  return host ? sourceOf(host, link.origin_slot) : null;
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

/** Calls `show` with the node's UI output after each run, also when ComfyUI answers from its cache. */
export function onResult(node, show) {
  const before = node.onExecuted;
  node.onExecuted = function (output) {
    before?.call(this, output);
    show(output ?? {});
  };
}

/** Loads a style sheet of css/, once. */
export function loadStyle(name) {
  const address = new URL(`../css/${name}.css`, import.meta.url).href;
  if (document.querySelector(`link[href="${address}"]`)) return;
  document.head.append(element("link", { rel: "stylesheet", href: address }));
}
