// The words of the pairs board, in the user's language.
import { translate } from "../translate.js";

export const TEXTS = {
  loading: () => translate("Reading the folder …"),
  byWire: () => translate("The folder comes from another node. Run the graph to read it."),
  drop: () =>
    translate(
      "Drop images here: before and after, for example snow_before.jpg and snow_after.jpg, or photo-a.jpg " +
      "and photo-b.jpg.",
    ),
  dropOwn: () => translate("Drop your own images here to make pairs of them."),
  dropHere: () => translate("Drop to add these images"),
  dropMask: () => translate("Drop: mask for this pair"),
  dropPartner: () => translate("Drop: the missing image"),
  add: () => translate("Add images"),
  addTitle: () =>
    translate("Choose image files from this computer. You can also drop or paste them on the board."),
  target: () => translate("into"),
  targetTitle: () =>
    translate("Folder in ComfyUI's input folder that dropped images go to. A new name makes a new folder."),
  before: () => translate("before"),
  after: () => translate("after"),
  missing: () => translate("missing"),
  skipped: () => translate("skipped"),
  heldOut: () => translate("held out"),
  maskImage: () => translate("mask"),
  noImages: () => translate("These are no image files. Drop PNG, JPEG, WebP or other images."),
  oneMask: () => translate("Drop one mask image on a pair."),
  noMaskPlace: () => translate("A list names the images of this folder. Write the mask into the list, too."),
  maskMoved: () => translate("The folder has changed, so the mask was not replaced. Add it again."),
  oldMask: () => translate("The old mask is in ComfyUI's output folder, in instructbrush_trash/pairs."),
  notOwn: () =>
    translate("Examples of the pack cannot be changed. Drop your images to make a folder of your own."),
  unreadable: (reason) => translate("The dropped files cannot be read: {reason}", { reason }),
  noName: () => translate("Write a name for the folder."),
  move: (name) => translate("Move pair {name}: drag, or press the arrow keys", { name }),
  star: (name) =>
    translate("Hold out pair {name}: learn from the others, and show the edit on this one", { name }),
  unstar: (name) => translate("Learn from pair {name}, too", { name }),
  swap: (name) => translate("Exchange before and after of pair {name}", { name }),
  skip: (name) => translate("Skip pair {name}", { name }),
  use: (name) => translate("Use pair {name} again", { name }),
  mask: (name) =>
    translate(
      "Add a mask to pair {name}: white where the edit is. Or drop a mask image on the pair.",
      { name },
    ),
  ignoreMask: (name) =>
    translate("Pair {name} is learned only where its mask is white. Click to ignore the mask.", { name }),
  useMask: (name) => translate("Use the mask of pair {name} again", { name }),
  pairs: (count) => translate(count === 1 ? "1 pair" : "{count} pairs", { count }),
  used: (count) => translate("{count} used", { count }),
  out: (name) => translate("held out: {name}", { name }),
  uploading: (done, all) => translate("Uploading {done} of {all} …", { done, all }),
  failed: (name, why) => translate("{name} was not uploaded: {why}", { name, why }),
  large: (size, side) => translate("The images are {size}. Learn at {side} x {side}?", { size, side }),
  useSize: (side) => translate("Set size to {side}", { side }),
  sizesDiffer: () =>
    translate("Before and after differ in size: the larger image is scaled to the smaller one."),
  farLarger: () => translate("Far larger than editing models are made for. Choose a size to learn at."),
};
