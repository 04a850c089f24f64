// The front-end extension: the live panel of the learning nodes, and text output in other nodes.
// ComfyUI itself shows previews, progress, help pages and translations.
import { app } from "../../../scripts/app.js";
import { addGallery, setupGallery } from "./gallery/index.js";
import { addPanel, element, loadStyle, onResult } from "./dom.js";
import { showErrors } from "./errors.js";
import { addJudging } from "./judging/index.js";
import { addLearningPanel, restoreLearning, setupLearning } from "./learning/live.js";
import { addPairsBoard, refreshBoards } from "./pairs/board.js";
import { addPhrases } from "./phrases/index.js";
import { addStrengthStrip, refreshStrengths, setupStrength } from "./strength/index.js";
import { STRENGTH_COMMAND, strengthCommands, strengthMenu } from "./strength/index.js";
import { addRegionOverlay } from "./regions/index.js";
import { improveLists } from "./templates.js";
import { loadTranslations, translateSentence, translateSockets } from "./translate.js";
import { noteNumbers, prepareWidgets, refreshWidgets, setupWidgets } from "./widgets/index.js";

const LEARNING = ["InstructBrushLearn", "InstructBrushLearnText", "InstructBrushLearnAdapter"];

/** Nodes that show their text output. */
const WITH_TEXT = [
  "InstructBrushSave",
  "InstructBrushCaptionInit",
  "InstructBrushAddWords",
  "InstructBrushInspect",
  "InstructBrushEvaluate",
  "InstructBrushFindEditedObject",
  "InstructBrushCleanRegion",
  "InstructBrushExplain",
  "InstructBrushEditBySteps",
  "InstructBrushMakePairs",
];

/** Nodes of WITH_TEXT whose text is a table. */
const WITH_TABLE = [
  "InstructBrushInspect",
  "InstructBrushEvaluate",
  "InstructBrushFindEditedObject",
];

/** Nodes of WITH_TEXT whose first line is what a user or a model wrote. It is not translated. */
const OWN_WORDS = ["InstructBrushCaptionInit", "InstructBrushExplain"];

function reportOf(node, text) {
  if (!OWN_WORDS.includes(node.comfyClass)) return translateSentence(text);
  const [first, ...others] = text.split("\n");
  return [first, ...others.map(translateSentence)].join("\n");
}

/** Translates the sockets of a new node, and again when a saved one has brought its labels. */
function translateSocketsOf(node) {
  if (!node.comfyClass?.startsWith("InstructBrush")) return;
  translateSockets(node);
  const configured = node.onConfigure;
  node.onConfigure = function (...given) {
    configured?.apply(this, given);
    translateSockets(this);
  };
}

improveLists();

app.registerExtension({
  name: "InstructBrush",
  commands: [STRENGTH_COMMAND],
  getSelectionToolboxCommands: strengthCommands,
  getNodeMenuItems: strengthMenu,

  async setup() {
    await loadTranslations();
    loadStyle("panels");
    loadStyle("pairs");
    setupGallery();
    showErrors();
    setupLearning();
    setupStrength();
    setupWidgets();
  },

  beforeRegisterNodeDef(_type, definition) {
    if (definition.name.startsWith("InstructBrush")) noteNumbers(definition);
  },

  /** Called whenever a workflow is open, also after a reload of the page. */
  afterConfigureGraph() {
    restoreLearning();
    refreshStrengths();
    refreshWidgets();
  },

  refreshComboInNodes() {
    refreshBoards();
  },

  nodeCreated(node) {
    if (node.comfyClass?.startsWith("InstructBrush")) prepareWidgets(node);
    translateSocketsOf(node);
    addGallery(node);
    addStrengthStrip(node);
    addPhrases(node);
    addRegionOverlay(node);
    addJudging(node);
    if (LEARNING.includes(node.comfyClass)) {
      addLearningPanel(node);
    } else if (node.comfyClass === "InstructBrushLoadPairs") {
      addPairsBoard(node);
    } else if (WITH_TEXT.includes(node.comfyClass)) {
      const table = WITH_TABLE.includes(node.comfyClass);
      const line = element("div", { class: `ib-panel ib-remark${table ? " ib-table" : ""}` });
      addPanel(node, "remark", line, table ? 220 : 60);
      onResult(node, ({ text }) => text && (line.textContent = reportOf(node, text.join("\n"))));
    }
  },
});
