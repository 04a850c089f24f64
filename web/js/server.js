// Requests to the pack's own routes.
import { api } from "../../../scripts/api.js";
import { translate, translateSentence } from "./translate.js";

/** Returns the answer of a route. Throws an error with the server's sentence. */
export async function get(address) {
  return answerOf(await api.fetchApi(address));
}

/** Sends values to a route that changes something, and returns its answer. Throws as `get` does. */
export async function post(address, values) {
  const headers = { "Content-Type": "application/json" };
  return answerOf(await api.fetchApi(address, { method: "POST", headers, body: JSON.stringify(values) }));
}

async function answerOf(response) {
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const { status } = response;
  throw new Error(translateSentence(answer.error) ?? translate("The server answered {status}.", { status }));
}
