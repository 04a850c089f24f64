// The front-end extension: panels and widgets of the pack's nodes, the gallery, and errors in their nodes.
// ComfyUI itself shows previews, progress, help pages and translations of nodes.
import { app } from "../../../scripts/app.js";
import { addComparison } from "./compare.js";
import { loadStyle } from "./dom.js";
import { showErrors } from "./errors.js";
import { addGallery, setupGallery } from "./gallery/index.js";
import { addJudging } from "./judging/index.js";
import { addLearningPanel, restoreLearning, setupLearning } from "./learning/live.js";
import { forgetClosed } from "./nodes.js";
import { addPairsBoard, refreshBoards, setupPairs } from "./pairs/board.js";
import { followPrompts, restoreResults } from "./panels.js";
import { addPhrases } from "./phrases/index.js";
import { addRegionOverlay } from "./regions/index.js";
import { addReport } from "./reports.js";
import { addStrengthStrip, refreshStrengths, setupStrength } from "./strength/index.js";
import { STRENGTH_COMMAND, strengthCommands, strengthMenu } from "./strength/index.js";
import { improveLists } from "./templates.js";
import { followSockets, loadTranslations } from "./translate.js";
import { noteNumbers, prepareWidgets, refreshWidgets, setupWidgets } from "./widgets/index.js";

const isOurs = (name) => Boolean(name?.startsWith("InstructBrush"));

improveLists();
followPrompts();

app.registerExtension({
  name: "InstructBrush",
  commands: [STRENGTH_COMMAND],
  getSelectionToolboxCommands: strengthCommands,
  getNodeMenuItems: strengthMenu,

  async setup() {
    await loadTranslations();
    loadStyle("panels");
    setupGallery();
    showErrors();
    setupLearning();
    setupPairs();
    setupStrength();
    setupWidgets();
  },

  beforeRegisterNodeDef(_type, definition) {
    if (isOurs(definition.name)) noteNumbers(definition);
  },

  /** Called whenever a workflow is open, also after a reload of the page, and by undo. */
  afterConfigureGraph() {
    forgetClosed();
    restoreResults();
    restoreLearning();
    refreshStrengths();
    refreshWidgets();
  },

  refreshComboInNodes() {
    refreshBoards();
  },

  nodeCreated(node) {
    addComparison(node);
    if (!isOurs(node.comfyClass)) return;
    prepareWidgets(node);
    followSockets(node);
    // Each adds something to its own nodes only.
    addGallery(node);
    addStrengthStrip(node);
    addPhrases(node);
    addRegionOverlay(node);
    addJudging(node);
    addLearningPanel(node);
    addPairsBoard(node);
    addReport(node);
  },
});
