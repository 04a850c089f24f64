// Buttons that open the pack's pages (ComfyUI's App Mode): the short way to the first instruction.
import { app } from "../../../../scripts/app.js";
import { button, element, icon } from "../dom.js";
import { request } from "../server.js";
import { translate } from "../translate.js";

/** The folder of the pack, which names its templates: /extensions/<pack>/js/gallery/start.js */
const PACK = import.meta.url.split("/extensions/")[1].split("/")[0];

const pages = () => [
  [translate("Learn an edit"), "Page - Learn an edit.app", "plus"],
  [translate("Edit my image"), "Page - Edit my image.app", "image"],
  [translate("Edit only there"), "Page - Edit only there.app", "expand"],
];

/** Returns the row of buttons. `say(sentence)` is called if a page cannot be opened. */
export function startButtons(say) {
  const row = element("nav", { class: "ibg-start", "aria-label": translate("Start") });
  for (const [label, template, sign] of pages()) {
    const open = () => openTemplate(template).catch((error) => say(error.message));
    const made = button("", open, { class: "ibg-use" });
    made.append(icon(sign), label);
    row.append(made);
  }
  return row;
}

async function openTemplate(name) {
  const address = `/workflow_templates/${PACK}/${encodeURIComponent(name)}.json`;
  const response = await request(address).catch(({ message: reason }) => {
    throw new Error(translate("The page '{name}' cannot be opened: {reason}", { name, reason }));
  });
  await app.loadGraphData(await response.json(), true, true, name, { openSource: "template" });
}
