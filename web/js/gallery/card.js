// One card of the gallery, and one unfinished run.
import { button, element, icon, iconButton } from "../dom.js";
import { translate, translateSentence } from "../translate.js";
import { misfit } from "./family.js";
import { store, thumbnailOf } from "./store.js";
import { swipe } from "./swipe.js";

/** The name without the ending of the file, as people call it. */
export function titleOf({ name }) {
  return name.replace(/\.safetensors$/, "");
}

/** Returns a card. `view` has the actions use, rename, trash, open and drag, and the connected `family`. */
export function makeCard(card, view) {
  const title = titleOf(card);
  const star = favoriteButton(card, title, view);
  const picture = element("div", { class: "ibg-picture", title: view.useLabel }, image(card), star);
  const name = element("div", { class: "ibg-title", text: title, title });
  const details = element("dl", { class: "ibg-details", hidden: "" });
  const root = element("article", { class: "ibg-card", "aria-label": title }, picture, name);
  root.dataset.name = card.name;
  const error = translateSentence(card.error);
  if (error) root.append(element("div", { class: "ibg-error", text: error, title: error }));
  else root.append(said(card.words, card.words), marks(card, view));
  const named = { class: "ibg-use", "aria-label": translate("Use {title}", { title }) };
  const use = button(translate("Use"), () => view.use(card), named);
  const actions = element("div", { class: "ibg-actions" });
  if (!card.error) actions.append(use);
  if (card.workflow) {
    const label = translate("Open the workflow of {title}", { title });
    actions.append(small("sitemap", label, () => view.open(card)));
  }
  if (card.facts) {
    const label = translate("Details of {title}", { title });
    const show = small("info-circle", label, () => toggle(card, root, details, show));
    show.setAttribute("aria-expanded", "false");
    actions.append(show);
  }
  if (card.changeable) {
    actions.append(
      small("pencil", translate("Rename {title}", { title }), () => askName(card, name, view)),
      small("trash", translate("Move {title} to the trash", { title }), () => view.trash(card)),
    );
  }
  root.append(actions, details);
  if (card.error) return root;
  picture.addEventListener("click", () => view.use(card));
  if (view.drag) {
    root.draggable = true;
    root.addEventListener("dragstart", (event) => view.drag(event, card));
  }
  return root;
}

/** Returns the row of a run that was stopped before its end. */
export function makeRun(run, view) {
  const place = run.total ? ` (${run.steps} / ${run.total})` : "";
  const words = run.words || translate("no words");
  const label = `${translate("Resume")}${place}`;
  const name = element("div", { class: "ibg-title", text: words, title: words });
  const when = said(translateSentence(run.error) ?? dateOf(run), run.stem);
  const unfinished = translate("Unfinished: {words}", { words });
  const root = element("article", { class: "ibg-run", "aria-label": unfinished });
  root.dataset.name = run.name;
  const resume = button(label, () => view.open(run, true), { class: "ibg-use" });
  if (run.workflow) {
    resume.title = translate("Opens its workflow. Click Run to go on.");
  } else {
    resume.disabled = true;
    resume.title = translate(
      "It holds no workflow. Run the same learning node with the same settings to go on.",
    );
  }
  const remove = translate("Move the unfinished run '{words}' to the trash", { words });
  const away = small("trash", remove, () => view.trash(run));
  const texts = element("div", { class: "ibg-texts" }, name, when);
  root.append(image(run), texts, element("div", { class: "ibg-actions" }, resume, away));
  return root;
}

function image(card) {
  if (card.thumbnail) return swipe(thumbnailOf(card), labelOf(card));
  const sign = icon(card.error ? "exclamation-triangle" : "image");
  return element("div", { class: "ibg-swipe-box ibg-none" }, sign);
}

/** What a thumbnail shows, for screen readers. */
export function labelOf({ words }) {
  return translate("Before and after: {words}", { words });
}

function favoriteButton({ name }, title, view) {
  const on = store.favorites.has(name);
  const label = translate(
    on ? "Remove {title} from the favorites" : "Add {title} to the favorites",
    { title },
  );
  const press = (event) => {
    event.stopPropagation(); // the image below uses the card
    const change = on ? { removed: [name] } : { added: [name] };
    store.changeFavorites(change).catch((error) => view.say(error.message));
  };
  const star = small(on ? "star-fill" : "star", label, press);
  star.classList.add("ibg-star");
  star.setAttribute("aria-pressed", String(on));
  return star;
}

function marks(card, view) {
  const why = misfit(card, view.family);
  const families = [...new Set(card.parts.map((part) => part.family))];
  const spaces = [...new Set(card.parts.map((part) => part.space))];
  const full = families.map((family) => store.families[family]?.title ?? family).join(", ");
  const badge = element("span", { class: "ibg-badge", text: families.join(" + "), title: why || full });
  if (why) {
    badge.classList.add("ibg-misfit");
    badge.setAttribute("aria-label", why);
  }
  const { length } = card.parts;
  const spaceNames = spaces.map((space) => SPACES[space]?.() ?? space).join(", ");
  const blend = length > 1 ? translate("blend of {length}", { length }) : spaceNames;
  const learned = element("span", { text: `${blend} · ${stepsOf(card)}` });
  return element("div", { class: "ibg-marks" }, badge, learned, element("span", { text: dateOf(card) }));
}

/** The space that was learned, as a card names it. */
const SPACES = {
  attention: () => translate("attention"),
  text: () => translate("text"),
  adapter: () => translate("adapter"),
};

export function stepsOf({ steps }) {
  return translate("{steps} steps", { steps });
}

function said(text, title) {
  return element("div", { class: "ibg-said", text, title });
}

function dateOf({ modified }) {
  return modified ? new Date(1000 * modified).toLocaleDateString() : "";
}

function toggle(card, root, list, pressed) {
  const open = list.hidden;
  list.hidden = !open;
  root.classList.toggle("ibg-open", open);
  pressed.setAttribute("aria-expanded", String(open));
  if (!list.childElementCount) fillFacts(card, list);
  if (open) root.scrollIntoView({ block: "nearest" });
}

/** The server's names of facts. */
const FACTS = {
  title: () => translate("title"),
  weight: () => translate("weight"),
  model: () => translate("model"),
  "init text": () => translate("init text"),
  rows: () => translate("rows"),
  learned: () => translate("learned"),
  "final loss": () => translate("final loss"),
  settings: () => translate("settings"),
  guidance: () => translate("guidance"),
};
/** The facts that are sentences. The others are names, words and figures. */
const SENTENCES = ["rows", "learned", "final loss", "guidance"];

function fillFacts(card, list) {
  const add = (name, text) => list.append(element("dt", { text: name }), element("dd", { text }));
  for (const facts of card.facts) {
    for (const [name, text] of Object.entries(facts)) {
      const shown = SENTENCES.includes(name) ? translateSentence(text) : text;
      if (text) add(FACTS[name]?.() ?? name, shown);
    }
  }
  add(translate("file"), `${sizeOf(card.size)}, ${card.name}`);
}

function sizeOf(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Lets the user write another name in place of the title. */
function askName(card, name, view) {
  const label = translate("New name");
  const input = element("input", { class: "ibg-name", "aria-label": label, spellcheck: "false" });
  input.value = titleOf(card);
  name.replaceWith(input);
  input.focus();
  input.select();
  const leave = () => input.isConnected && input.replaceWith(name);
  let busy = false;
  input.addEventListener("keydown", async (event) => {
    event.stopPropagation();
    if (event.key === "Escape") {
      event.preventDefault(); // the dialog stays open
      leave();
    } else if (event.key === "Enter" && !busy) {
      busy = true;
      if (await view.rename(card, input.value)) leave();
      busy = false;
    }
  });
  input.addEventListener("blur", () => busy || leave());
}

function small(sign, label, act) {
  return iconButton(sign, label, act, { class: "ibg-icon" });
}
