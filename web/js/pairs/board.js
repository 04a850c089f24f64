// Adds the pairs board to Load Edit Pairs nodes, and follows their widgets.
import { addPanel, onResult } from "../dom.js";
import { translate } from "../translate.js";
import { PairsBoard } from "./panel.js";
import { droppedImages, hasFiles } from "./uploads.js";

const HEIGHT = 300;
const WIDTH = 400;

const boards = new Set();

/** Adds the board to a Load Edit Pairs node. */
export function addPairsBoard(node) {
  const board = new PairsBoard(node);
  boards.add(board);
  const removed = node.onRemoved;
  node.onRemoved = function (...given) {
    boards.delete(board);
    removed?.apply(this, given);
  };
  // The tiles show the images; each renderer has its own way to show none below them.
  node.hideOutputImages = true;
  node.onDrawBackground = () => {};
  node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
  addPanel(node, "pairs_board", board.root, HEIGHT).label = translate("Before and after");
  let folder = board.folder;
  follow(board, "folder", () => {
    board.chosen = true;
    // Decisions name the pairs of one folder.
    if (board.folder !== folder) board.widget("board").value = "";
    folder = board.folder;
    board.refresh();
  });
  for (const name of ["size", "fit"]) follow(board, name, () => board.draw());
  const configured = node.onConfigure;
  node.onConfigure = function (...given) {
    configured?.apply(this, given);
    board.chosen = true;
    folder = board.folder;
    board.refresh();
  };
  // Files that are dropped on the node's title or beside the board.
  node.onDragOver = (event) => hasFiles(event);
  node.onDragDrop = (event) => {
    if (!hasFiles(event)) return false;
    droppedImages(event).then((images) => board.addImages(images));
    return true;
  };
  onResult(node, ({ text }) => text && board.showResult(text.join("\n")));
  board.refresh();
}

/** Reads all folders again, when the user reloads the lists (key R). */
export function refreshBoards() {
  for (const board of boards) board.refresh();
}

function follow(board, name, act) {
  const widget = board.widget(name);
  const before = widget.callback;
  widget.callback = function (...given) {
    const answer = before?.apply(this, given);
    act();
    return answer;
  };
}
