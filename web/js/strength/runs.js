// Runs prompts one after the other, and gives what each shows. Messages of the server say what happens.
import { app } from "../../../../scripts/app.js";
import { api } from "../../../../scripts/api.js";
import { get } from "../server.js";

const KINDS = ["executed", "execution_success", "execution_error", "execution_interrupted"];
const STOPPED = Symbol("stopped");

/** Prompts that run one after the other. The next one is sent when the last one is done. */
export class Runs {
  constructor(shown) {
    this.shown = shown;
    this.stopped = false;
  }

  /**
   * Runs all prompts and calls `finished(prompt, output)` after each one, with what the last node showed.
   *
   * Returns false if it was stopped. Throws an error with the server's sentence if a run fails.
   */
  async run(prompts, begun, finished) {
    for (const prompt of prompts) {
      if (this.stopped) return false;
      begun(prompt);
      const output = await this.outputOf(prompt);
      if (output === STOPPED) return false;
      finished(prompt, output);
    }
    return true;
  }

  /** Ends the runs. What is done stays. */
  stop() {
    this.stopped = true;
    this.end?.(STOPPED);
    if (!this.id) return;
    api.deleteItem("queue", this.id);
    api.interrupt(this.id);
  }

  outputOf(prompt) {
    return new Promise((resolve, reject) => {
      this.id = null;
      let output;
      const early = [];
      const handle = (kind, detail) => {
        if (this.id === null) early.push([kind, detail]); // the answer to the request may come later
        if (detail?.prompt_id !== this.id || this.id === null) return;
        if (kind === "executed" && String(detail.node) === this.shown.id) {
          output = detail.output;
        } else if (kind === "execution_success") done(output);
        else if (kind === "execution_interrupted") done(STOPPED);
        else if (kind === "execution_error") fail(new Error(detail.exception_message.trim()));
      };
      const listeners = KINDS.map((kind) => [kind, ({ detail }) => handle(kind, detail)]);
      listeners.push(["reconnected", () => this.id && recover()]);
      const end = (act, value) => {
        for (const [kind, listener] of listeners) api.removeEventListener(kind, listener);
        this.end = null;
        act(value);
      };
      const done = (value) => end(resolve, value);
      const fail = (error) => end(reject, error);
      const recover = async () => {
        const found = await outcome(this.id, this.shown).catch(() => null);
        if (found) (found.error ? fail : done)(found.error ?? found.output);
      };
      this.end = done;
      for (const [kind, listener] of listeners) api.addEventListener(kind, listener);
      send(prompt, this.shown).then((id) => {
        this.id = id;
        if (this.stopped) this.stop();
        for (const [kind, detail] of early) handle(kind, detail);
      }, fail);
    });
  }
}

/** Shows an output in the canvas again, as ComfyUI does when it has just been made. */
export function showAgain(shown, output) {
  const detail = { node: shown.id, display_node: shown.id, output, prompt_id: null };
  api.dispatchCustomEvent?.("executed", detail);
}

/** Sends a prompt whose only output is the node that shows the image. Returns its id. */
async function send({ output, workflow }, shown) {
  const previewMethod = app.extensionManager.setting?.get?.("Comfy.Execution.PreviewMethod");
  const options = { partialExecutionTargets: [shown.id], previewMethod };
  try {
    const answer = await api.queuePrompt(0, { output, workflow }, options);
    if (answer.prompt_id) return answer.prompt_id;
    throw Object.assign(new Error(), { response: answer });
  } catch (error) {
    throw new Error(sentenceOf(error));
  }
}

function sentenceOf({ response, message }) {
  const faults = Object.values(response?.node_errors ?? {}).flatMap(({ errors }) => errors ?? []);
  const [fault] = faults.length ? faults : [response?.error];
  const parts = typeof fault === "string" ? [fault] : [fault?.message, fault?.details];
  return parts.filter(Boolean).join(": ") || message;
}

/** What became of a prompt while the connection was lost. Null while it runs or waits. */
async function outcome(id, shown) {
  // In this order: a run that ends in between is in the history.
  const { queue_running, queue_pending } = await get("/queue");
  const entry = (await get(`/history/${id}`))[id];
  const waits = [...queue_running, ...queue_pending].some(([, prompt]) => prompt === id);
  if (!entry?.status) return waits ? null : { output: STOPPED }; // the server was started again
  const failed = entry.status.messages?.find(([kind]) => kind === "execution_error");
  if (failed) return { error: new Error(failed[1].exception_message.trim()) };
  return { output: entry.status.completed ? entry.outputs?.[shown.id] : STOPPED };
}
