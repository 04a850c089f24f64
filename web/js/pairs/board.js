// Adds the pairs board to Load Edit Pairs nodes, and follows their widgets.
import { api } from "../../../../scripts/api.js";
import { loadStyle } from "../dom.js";
import { after, whileInGraph, widgetOf } from "../nodes.js";
import { addPanel, onResult } from "../panels.js";
import { translate } from "../translate.js";
import { PairsBoard } from "./panel.js";
import { hasFiles } from "./uploads.js";

const NODE = "InstructBrushLoadPairs";
const HEIGHT = 300;
const WIDTH = 400;

/** The boards of all nodes in the graph. */
const boards = new Set();

/** Call once. */
export function setupPairs() {
  // Another model may be made for another size.
  api.addEventListener("graphChanged", () => boards.forEach((board) => board.advise()));
}

/** Adds the board to a Load Edit Pairs node. */
export function addPairsBoard(node) {
  if (node.comfyClass !== NODE) return;
  loadStyle("pairs");
  const board = new PairsBoard(node);
  // The tiles show the images; each renderer has its own way to show none below them.
  node.hideOutputImages = true;
  node.onDrawBackground = () => {};
  node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
  addPanel(node, "pairs_board", board.root, HEIGHT).label = translate("Before and after");
  whileInGraph(
    node,
    () => {
      boards.add(board);
      board.refresh();
    },
    () => boards.delete(board),
  );
  let { folder } = board;
  after(widgetOf(node, "folder"), "callback", () => {
    board.chosen = true;
    // Decisions name the pairs of one folder.
    if (board.folder !== folder) widgetOf(node, "board").value = "";
    folder = board.folder;
    board.refresh();
  });
  for (const name of ["size", "fit"]) after(widgetOf(node, name), "callback", () => board.draw());
  after(node, "onConnectionsChange", () => board.followWires());
  after(node, "onConfigure", () => {
    board.chosen = true;
    folder = board.folder;
    board.refresh();
  });
  // Files that are dropped on the node's title or beside the board.
  node.onDragOver = (event) => hasFiles(event);
  node.onDragDrop = (event) => {
    if (!hasFiles(event)) return false;
    board.additions.takeDrop(event);
    return true;
  };
  onResult(node, ({ text }) => text && board.showResult(text.join("\n")));
}

/** Reads all folders again, when the user reloads the lists (key R). */
export function refreshBoards() {
  for (const board of boards) board.refresh();
}
