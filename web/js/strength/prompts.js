// Prompts that show an edit with another strength, and run no more than the image after it needs.
import { app } from "../../../../scripts/app.js";
import { executionIds, savedNode } from "./settings.js";

/** Output nodes that only show the images they get. */
const ONLY_SHOW = ["PreviewImage", "ImageCompare"];
const SHOW_IMAGES = [...ONLY_SHOW, "SaveImage"];

/**
 * Returns one prompt for every strength. The widgets stay as they are: values change in the prompts and in
 * the workflows that go with them. Null if the node does not run.
 */
export async function promptsOf({ node, host }, setting, strengths) {
  const made = await app.graphToPrompt();
  const ids = executionIds(node, host).filter((id) => made.output[id]);
  if (!ids.length) return null;
  const shown = imageAfter(made.output, ids[0]);
  return {
    shown,
    prompts: strengths.map((strength) => {
      const { output, workflow } = JSON.parse(JSON.stringify(made)); // it holds proxies of Vue
      for (const id of ids) output[id].inputs.strength = strength;
      setSaved(workflow, setting, strength);
      if (shown) keepNothing(output[shown.id], shown.link);
      return { strength, output, workflow };
    }),
  };
}

/**
 * Finds the nearest node after `start` that shows an image, in a prompt.
 *
 * Returns { id, side, link }: side is "a" or "b" for a node that compares two images, link is where its image
 * comes from. Undefined if there is none.
 */
export function imageAfter(output, start) {
  const next = new Map();
  for (const [id, { inputs }] of Object.entries(output)) {
    for (const [name, value] of Object.entries(inputs ?? {})) {
      if (!Array.isArray(value)) continue;
      const source = String(value[0]);
      next.set(source, [...(next.get(source) ?? []), { id, name }]);
    }
  }
  const seen = new Set([start]);
  const others = [];
  for (let reached = [start]; reached.length; ) {
    const links = reached.flatMap((id) => next.get(id) ?? []);
    const images = links.filter(({ id, name }) => takesImages(output[id].class_type, name));
    const shown = images.filter(({ id }) => SHOW_IMAGES.includes(output[id].class_type));
    // Of two that are equally near, a node that saves no file.
    shown.sort((one, other) => isSave(output[one.id]) - isSave(output[other.id]));
    if (shown.length) return described(output, shown[0], shown);
    others.push(...images);
    reached = [...new Set(links.map(({ id }) => id))].filter((id) => !seen.has(id));
    for (const id of reached) seen.add(id);
  }
  return others.length ? described(output, others[0], []) : undefined;
}

function described(output, found, all) {
  const names = all.filter(({ id }) => id === found.id).map(({ name }) => name);
  const side = names.includes("image_b") ? "b" : names.includes("image_a") ? "a" : undefined;
  return { id: found.id, side, link: output[found.id].inputs[found.name] };
}

/** Returns the first image of what an output node showed, or undefined. */
export function firstImage(output, side) {
  const lists = side ? [output?.[`${side}_images`]] : [output?.images, output?.b_images, output?.a_images];
  return lists.find((list) => list?.length)?.[0];
}

function isSave(node) {
  return node.class_type === "SaveImage";
}

function takesImages(type, name) {
  const known = LiteGraph.registered_node_types[type]?.nodeData;
  if (!known?.output_node) return false;
  const input = { ...known.input?.required, ...known.input?.optional }[name];
  return input?.[0] === "IMAGE";
}

/** What is only tried is shown and not used: other nodes write files, or begin a study. */
function keepNothing(node, link) {
  if (ONLY_SHOW.includes(node.class_type)) return;
  node.class_type = "PreviewImage";
  node.inputs = { images: link };
}

/** Writes a value into the saved form of its node. */
function setSaved(workflow, { node, widget }, value) {
  const values = savedNode(workflow, node)?.widgets_values;
  const place = node.widgets.indexOf(widget);
  if (values && place >= 0 && values[place] === widget.value) values[place] = value;
}
