// Nodes that show their text output below their inputs.
import { element } from "./dom.js";
import { addPanel, onResult } from "./panels.js";
import { translateSentence } from "./translate.js";

const HEIGHT = 60;
const TABLE_HEIGHT = 220;
/** A remark, and not a row of figures or a step. */
const SENTENCE = /^\D.{40,}[.。]$/u;

/** Node -> what its text is: "table", "own" if the first line is not a sentence of the pack, else "text". */
const REPORTS = {
  InstructBrushSave: "text",
  InstructBrushCaptionInit: "own",
  InstructBrushAddWords: "text",
  InstructBrushInspect: "table",
  InstructBrushEvaluate: "table",
  InstructBrushFindEditedObject: "table",
  InstructBrushCleanRegion: "text",
  InstructBrushExplain: "own",
  InstructBrushEditBySteps: "text",
  InstructBrushMakePairs: "text",
  InstructBrushMakePairsFromEdit: "text",
};

/** Adds the text to a node that has one. */
export function addReport(node) {
  const kind = REPORTS[node.comfyClass];
  if (!kind) return;
  const table = kind === "table";
  const shown = element("div", { class: `ib-panel ib-remark${table ? " ib-table" : ""}` });
  addPanel(node, "remark", shown, table ? TABLE_HEIGHT : HEIGHT);
  onResult(node, ({ text }) => {
    if (text) shown.textContent = joined(text.map((each) => reportOf(kind, each)));
  });
}

/** Joins the texts of a run on several images. A sentence of a table stands once. */
function joined(texts) {
  const said = new Set();
  const whole = texts.map((text) => {
    const lines = text.split("\n").filter((line) => !(SENTENCE.test(line) && said.has(line)));
    lines.forEach((line) => said.add(line));
    return lines.join("\n").trim();
  });
  return whole.join(whole.some((text) => text.includes("\n")) ? "\n\n" : "\n");
}

/** The first line of some reports is what a user or a model wrote. It is not translated. */
function reportOf(kind, text) {
  if (kind !== "own") return translateSentence(text);
  const [first, ...others] = text.split("\n");
  return [first, ...others.map(translateSentence)].join("\n");
}
