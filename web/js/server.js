// Requests to the server. Each fails with a sentence that can be shown.
import { api } from "../../../scripts/api.js";
import { translate, translateSentence } from "./translate.js";

/** Returns the answer of one of the pack's routes. */
export async function get(address) {
  return (await request(address)).json();
}

/** Sends values to a route that changes something, and returns its answer. */
export async function post(address, values) {
  const headers = { "Content-Type": "application/json" };
  return (await request(address, { method: "POST", headers, body: JSON.stringify(values) })).json();
}

/** Returns a successful response. */
export async function request(address, options) {
  let response;
  try {
    response = await api.fetchApi(address, options);
  } catch {
    throw new Error(translate("The server does not answer. Is ComfyUI running?"));
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const known = typeof error === "string" && error;
  const { status } = response;
  throw new Error(known ? translateSentence(known) : translate("The server answered {status}.", { status }));
}

/** The address of an image that the server can show: { filename, subfolder, type }. */
export function viewOf({ subfolder = "", ...file }) {
  return api.apiURL(`/view?${new URLSearchParams({ ...file, subfolder })}`);
}
