// Creates elements without innerHTML.

const SVG = "http://www.w3.org/2000/svg";

/** element("div", { class: "x", text: "hello" }, child, ...) */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for an SVG element. */
export function drawing(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, { text, ...attributes }, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

/** A button with a text. `act(event)` is called when it is pressed. */
export function button(text, act, attributes = {}) {
  const made = element("button", { type: "button", text, ...attributes });
  made.addEventListener("click", act);
  return made;
}

/** A sign of ComfyUI's icon font, such as "star". Screen readers pass over it. */
export function icon(name) {
  return element("i", { class: `pi pi-${name}`, "aria-hidden": "true" });
}

/** A button that shows only a sign. The label says what it does. */
export function iconButton(sign, label, act, attributes = {}) {
  const made = button("", act, { "aria-label": label, title: label, ...attributes });
  made.append(icon(sign));
  return made;
}

/** Loads a style sheet of css/, once. */
export function loadStyle(name) {
  const address = new URL(`../css/${name}.css`, import.meta.url).href;
  if (document.querySelector(`link[href="${address}"]`)) return;
  document.head.append(element("link", { rel: "stylesheet", href: address }));
}
