// Buttons that open the pack's pages (ComfyUI's App Mode): the short way to the first instruction.
import { app } from "../../../../scripts/app.js";
import { api } from "../../../../scripts/api.js";
import { element } from "../dom.js";
import { translate } from "../translate.js";

/** The folder of the pack, which names its templates: /extensions/<pack>/js/gallery/start.js */
const PACK = import.meta.url.split("/extensions/")[1].split("/")[0];

const pages = () => [
  [translate("Learn an edit"), "Page - Learn an edit.app", "pi-plus"],
  [translate("Edit my image"), "Page - Edit my image.app", "pi-image"],
  [translate("Edit only there"), "Page - Edit only there.app", "pi-expand"],
];

/** Returns the row of buttons. `say(sentence)` is called if a page cannot be opened. */
export function startButtons(say) {
  const row = element("nav", { class: "ibg-start", "aria-label": translate("Start") });
  for (const [label, template, icon] of pages()) {
    const sign = element("i", { class: `pi ${icon}`, "aria-hidden": "true" });
    const button = element("button", { type: "button", class: "ibg-use" }, sign, label);
    button.addEventListener("click", () => openTemplate(template).catch((error) => say(error.message)));
    row.append(button);
  }
  return row;
}

async function openTemplate(name) {
  const response = await api.fetchApi(`/workflow_templates/${PACK}/${encodeURIComponent(name)}.json`);
  if (!response.ok) throw new Error(translate("The page '{name}' is not there.", { name }));
  await app.loadGraphData(await response.json(), true, true, name, { openSource: "template" });
}
