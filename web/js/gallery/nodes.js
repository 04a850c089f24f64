// Load Instruction nodes: giving them a name, adding them to the canvas, and dragging cards there.
import { app } from "../../../../scripts/app.js";
import { everyNode } from "../graph.js";
import { rememberChange, setValue, widgetOf } from "../nodes.js";
import { store } from "./store.js";

export const LOAD = "InstructBrushLoad";
const KIND = "application/x-instructbrush-instruction";
/** Room that a new node needs, with its title, and the steps in which a free place is looked for. */
const ROOM = [290, 360];
const STEP = 60;
const MOST_STEPS = 12;

export function nameWidget(node) {
  return widgetOf(node, "name");
}

/** Sets the name of a Load Instruction node, as choosing it from the node's list does. */
export function setName(node, name) {
  const widget = nameWidget(node);
  if (!widget) return;
  offerNames(widget, name);
  setValue(node, widget, name);
  rememberChange();
}

/** Gives all Load Instruction nodes the list that the gallery read. */
export function offerToAll() {
  for (const node of everyLoadNode()) {
    const widget = nameWidget(node);
    if (widget) offerNames(widget);
  }
}

/** Follows a renamed file in the whole graph. */
export function followRename(name, newName) {
  for (const node of everyLoadNode()) {
    if (nameWidget(node)?.value === name) setName(node, newName);
  }
}

/** Adds a Load Instruction node at a place of the graph, by default near the middle of what is visible. */
export function addLoadNode(name, place = freePlace()) {
  const node = LiteGraph.createNode(LOAD);
  node.pos = place;
  app.canvas.graph.add(node);
  setName(node, name);
  app.canvas.selectNode?.(node);
  return node;
}

/** Begins to drag a card. */
export function dragCard(event, card) {
  event.dataTransfer.setData(KIND, card.name);
  event.dataTransfer.effectAllowed = "copy";
}

/** Lets the canvas take cards: a dropped one becomes a node there. Call once. */
export function takeCards() {
  // In the capture phase, because nodes of the Vue renderer lie over the canvas.
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(
      kind,
      (event) => {
        if (!event.dataTransfer?.types.includes(KIND) || !onCanvas(event)) return;
        event.preventDefault();
        event.stopPropagation();
        if (kind === "dragover") event.dataTransfer.dropEffect = "copy";
        else addLoadNode(event.dataTransfer.getData(KIND), placeOf(event.clientX, event.clientY));
      },
      true,
    );
  }
}

/** Panels that may lie over the canvas. */
const PANELS = ".ibg-gallery, .side-bar-panel, .side-tool-bar-container, [role=dialog]";

function onCanvas({ clientX, clientY, target }) {
  const { left, top, right, bottom } = app.canvas.canvas.getBoundingClientRect();
  const inside = clientX >= left && clientX <= right && clientY >= top && clientY <= bottom;
  return inside && !target.closest?.(PANELS);
}

function placeOf(clientX, clientY) {
  const { left, top } = app.canvas.canvas.getBoundingClientRect();
  const { scale, offset } = app.canvas.ds;
  return [(clientX - left) / scale - offset[0], (clientY - top) / scale - offset[1]];
}

/** Returns the place nearest to the middle of the canvas where a new node covers no other one. */
function freePlace() {
  const { left, top, width, height } = app.canvas.canvas.getBoundingClientRect();
  const [x, y] = placeOf(left + width / 2, top + height / 2).map((value, axis) => value - ROOM[axis] / 2);
  const meets = (from, length, start, size) => from < start + size && from + length > start;
  const covers = ([at, down]) =>
    app.canvas.graph.nodes.some(({ pos, size }) => {
      const beside = meets(at, ROOM[0], pos[0], size[0] + 20);
      return beside && meets(down, ROOM[1], pos[1] - 30, size[1] + 50);
    });
  const steps = Array.from({ length: 2 * MOST_STEPS + 1 }, (_, index) => (index - MOST_STEPS) * STEP);
  const places = steps.flatMap((right) => steps.map((below) => [right, below]));
  places.sort((one, other) => Math.hypot(...one) - Math.hypot(...other));
  const [right, below] = places.find(([right, below]) => !covers([x + right, y + below])) ?? [0, 0];
  return [x + right, y + below];
}

function offerNames(widget, name = widget.value) {
  const names = store.loaded ? store.names() : [...(widget.options.values ?? [])];
  if (name && !names.includes(name)) names.push(name);
  widget.options.values = names;
}

function everyLoadNode() {
  return [...everyNode()].filter((node) => node.comfyClass === LOAD);
}
