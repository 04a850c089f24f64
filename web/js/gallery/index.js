// The instruction gallery: in Load Instruction, as a dialog and as a tab of the sidebar.
import { app } from "../../../../scripts/app.js";
import { api } from "../../../../scripts/api.js";
import { element, iconButton, loadStyle } from "../dom.js";
import { nodeOf } from "../graph.js";
import { after, whileInGraph } from "../nodes.js";
import { addPanel, onResult } from "../panels.js";
import { translate, translateSentence } from "../translate.js";
import { labelOf, stepsOf } from "./card.js";
import { connectedFamily } from "./family.js";
import { addLoadNode, dragCard, followRename, offerToAll, takeCards } from "./nodes.js";
import { LOAD, nameWidget, setName } from "./nodes.js";
import { startButtons } from "./start.js";
import { store, thumbnailOf } from "./store.js";
import { swipe } from "./swipe.js";
import { GalleryView } from "./view.js";

const SAVE = "InstructBrushSave";
const PANEL_HEIGHT = 200;

/** Registers the tab, and reads the list again when an instruction was saved or a run has stopped. */
export function setupGallery() {
  loadStyle("gallery");
  store.addEventListener("change", offerToAll);
  takeCards();
  const refresh = () => store.loaded && store.reload().catch(console.warn);
  api.addEventListener("executed", ({ detail }) => {
    if (nodeOf(detail.node)?.comfyClass === SAVE) refresh();
  });
  // A learning run that ended early is in the list then.
  for (const end of ["execution_interrupted", "execution_error"]) api.addEventListener(end, refresh);
  let view = null;
  app.extensionManager.registerSidebarTab({
    id: "instructbrush-gallery",
    icon: "pi pi-images",
    title: translate("Instructions"),
    label: translate("Edits"), // the longest word that fits below the icon
    tooltip: translate("Instructions: edits that were learned"),
    type: "custom",
    render(root) {
      view?.close();
      view = new GalleryView({
        use: (card) => addLoadNode(card.name),
        useLabel: translate("Click to add it, or drag it onto the canvas"),
        opened: () => {},
        renamed: followRename,
        drag: dragCard,
      });
      view.root.classList.add("ibg-sidebar");
      view.root.prepend(startButtons((sentence) => view.say(sentence)));
      root.style.height = "100%"; // so that only the cards scroll
      root.replaceChildren(view.root);
      view.show();
    },
    destroy() {
      view?.close();
      view = null;
    },
  });
}

/** Opens the gallery for a Load Instruction node. */
async function chooseFor(node) {
  const title = translate("Choose an instruction");
  const heading = element("h2", { text: title });
  const close = iconButton("times", translate("Close"), () => dialog.close(), { class: "ibg-icon" });
  const dialog = element("dialog", { class: "ibg-dialog", "aria-label": title });
  const view = new GalleryView({
    use: (card) => {
      setName(node, card.name);
      dialog.close();
    },
    useLabel: translate("Click to choose it"),
    opened: () => dialog.close(),
    renamed: followRename,
  });
  dialog.append(element("header", {}, heading, close), view.root);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  dialog.addEventListener("close", () => {
    view.close();
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal(); // Escape closes it, and the focus goes back to where it was
  view.search.focus();
  connectedFamily(node).then((family) => {
    view.family = family;
    if (family && store.loaded) view.draw();
  });
  await view.show();
}

/** Adds the button and the image of the chosen file to a Load Instruction node. */
export function addGallery(node) {
  if (node.comfyClass !== LOAD) return;
  const button = node.addWidget("button", "choose", null, () => chooseFor(node), { serialize: false });
  button.label = translate("Choose…");
  button.serialize = false;
  button.tooltip = translate("Shows all instructions with their images.");
  const picture = element("div", { class: "ibg-chosen" });
  const words = element("div", { class: "ib-remark" });
  const root = element("div", { class: "ib-panel ibg-chosen-panel" }, picture, words);
  addPanel(node, "remark", root, PANEL_HEIGHT);
  let shown = "";
  const show = async (name) => {
    await store.ready().catch(console.warn);
    const card = store.find(name);
    const key = `${name} ${card?.version}`;
    if (key === shown || nameWidget(node)?.value !== name) return;
    shown = key;
    picture.replaceChildren();
    picture.hidden = !card?.thumbnail;
    if (card?.thumbnail) picture.append(swipe(thumbnailOf(card), labelOf(card)));
    words.textContent = card ? textOf(card) : "";
  };
  const widget = nameWidget(node);
  const refresh = () => show(widget?.value);
  if (widget) after(widget, "callback", refresh);
  after(node, "onConfigure", refresh);
  whileInGraph(
    node,
    () => {
      store.addEventListener("change", refresh);
      refresh();
    },
    () => store.removeEventListener("change", refresh),
  );
  onResult(node, ({ text }) => text && (words.textContent = text.map(translateSentence).join("\n")));
}

function textOf(card) {
  if (card.error) return translateSentence(card.error);
  const families = [...new Set(card.parts.map((part) => part.family))].join(" + ");
  const from = card.words && translate("from '{words}'", { words: card.words });
  return `${families}: ${[from, stepsOf(card)].filter(Boolean).join(", ")}`;
}
