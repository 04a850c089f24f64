// Which inputs a node shows, which of the others have an effect, and what its line says about them.
import { isLinked, setValue, widgetOf } from "../nodes.js";
import { translate } from "../translate.js";

/** Inputs of the learning nodes that act only with the preset "custom". */
const CUSTOM_SETTINGS = [
  "tokens",
  "rank",
  "bypass",
  "segments",
  "segment_mode",
  "steps",
  "batch",
  "learning_rate",
  "adapter_rate",
  "direction_weight",
  "objective",
  "final_learning_rate",
  "weighting",
  "include_bos",
  "text_scale",
  "image_scale",
  "noise",
];

export const value = (node, name) => widgetOf(node, name)?.value;

/** Whether a widget belongs to an input of the node; others are panels. */
export function isInput(node, name) {
  return Boolean(specOf(node, name));
}

/** Returns the options of an input, as the server describes it. */
export function described(node, name) {
  return specOf(node, name)?.[1] ?? {};
}

/** The default of an input. */
export function standard(node, name) {
  const { default: usual, options } = described(node, name);
  return usual ?? options?.[0];
}

function specOf(node, name) {
  const { required, optional } = node.constructor?.nodeData?.input ?? {};
  return required?.[name] ?? optional?.[name];
}

/**
 * Gives the inputs of "custom" the values of the preset that was chosen before, unless they were changed.
 * `before` is that choice, and `standFor` the preset that "auto" stands for.
 */
export function beginWithPreset(node, before, standFor) {
  const { values = {} } = described(node, "preset");
  const inputs = CUSTOM_SETTINGS.map((name) => widgetOf(node, name)).filter(Boolean);
  const isUsual = ({ name, value: given }, known) => [standard(node, name), known[name]].includes(given);
  // Values that an earlier choice of "custom" began with are no changes.
  const untouched = [{}, ...Object.values(values)].some((known) => {
    return inputs.every((widget) => isUsual(widget, known));
  });
  if (!untouched) return;
  const preset = values[before === "auto" ? standFor : before] ?? {};
  for (const widget of inputs) {
    // The final rate of "auto" follows the first one, as the input's own value says.
    if (widget.name === "final_learning_rate" && before === "auto") continue;
    if (widget.name in preset) setValue(node, widget, preset[widget.name]);
  }
}

const LEARNING = {
  shown: ["init_text"],
  acts(node, name) {
    const custom = value(node, "preset") === "custom" || isLinked(node, "preset");
    return custom || !CUSTOM_SETTINGS.includes(name);
  },
  named: ["preset", "steps"],
  /** `family` is that of the connected model, `used` what the last run was done with; both may be missing. */
  line(node, { family, used } = {}) {
    if (isLinked(node, "preset")) return translate("preset by its input");
    const preset = value(node, "preset");
    if (preset === "custom") return translate("custom: {steps} steps", { steps: value(node, "steps") });
    const { steps = {} } = described(node, "preset");
    if (preset !== "auto") return translate("{preset}: {steps} steps", { preset, steps: steps[preset] });
    const found = presetOfAuto(node, { family, used });
    if (!found) return translate("auto: what fits the model");
    return translate("auto: {preset}, {steps} steps", { preset: found, steps: steps[found] });
  },
};

/** The preset that "auto" stands for, if it is known. */
export function presetOfAuto(node, { family, used }) {
  return described(node, "preset").preset_of?.[family] ?? used?.preset;
}

const nothingElse = () => "";
const always = () => true;

/** Node -> the widgets that it always shows, and rules for the others. */
export const RULES = {
  InstructBrushLearn: LEARNING,
  InstructBrushLearnText: LEARNING,
  InstructBrushLearnAdapter: LEARNING,
  // Their strip shows where the instruction acts.
  InstructBrushApply: { shown: ["strength"], acts: always, line: nothingElse },
  InstructBrushEditGuider: { shown: ["words", "strength"], acts: always, line: nothingElse },
  InstructBrushCaptionInit: { shown: ["tokens"], acts: always, line: nothingElse },
  InstructBrushCleanRegion: { shown: ["shape", "grow", "feather"], acts: always, line: nothingElse },
  InstructBrushFindEditedObject: { shown: ["instruction", "objects"], acts: always, line: nothingElse },
  InstructBrushPreference: {
    shown: ["study", "instructions"],
    acts: (node, name) => actsBeside(node, name, "_name"),
    // The panel writes it.
    silent: ["judgements"],
    line: nothingElse,
  },
};

/** An input such as third_name acts when the socket that it belongs to is linked: third. */
function actsBeside(node, name, ending) {
  const socket = name.endsWith(ending) && name.slice(0, -ending.length);
  const exists = socket && node.inputs?.some((input) => input.name === socket);
  return !exists || isLinked(node, socket);
}

/** Node -> whether an input has no effect, by its name. These nodes have no line. */
export const WITHOUT_EFFECT = {
  InstructBrushLoadRegionFinder(node, name) {
    if (name !== "sam_name") return undefined;
    const beginnings = described(node, "finder_name").without_sam ?? [];
    const finder = String(value(node, "finder_name"));
    return !isLinked(node, "finder_name") && beginnings.some((begin) => finder.startsWith(begin));
  },
  InstructBrushMakePairsFromEdit(node, name) {
    const needed = { least_change: "below least change", share: "lowest share" }[name];
    return needed && !isLinked(node, "drop") && value(node, "drop") !== needed;
  },
  InstructBrushBlend(node, name) {
    const [, number] = /^weight_([34])$/.exec(name) ?? [];
    return number && !isLinked(node, `instruction_${number}`);
  },
};
