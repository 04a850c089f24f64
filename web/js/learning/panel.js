// The panel of the learning nodes: phase, step, time left, curves, the previewed pair, and buttons.
import { button, element } from "../dom.js";
import { bestOf, brief, LossChart, smooth } from "./chart.js";
import { Previews } from "./previews.js";
import { translate, translateSentence } from "../translate.js";

/** Formats seconds: 95 -> "1:35". */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Text and title of each button. */
const BUTTONS = {
  use: () => [
    translate("Stop and use"),
    translate("Ends learning now. The graph goes on with what is learned so far."),
  ],
  best: () => [
    translate("Best"),
    translate("Ends learning, and uses the state with the least error on the held-out pair."),
  ],
  later: () => [translate("Stop for later"), translate("Stops learning and keeps it. Run again to resume.")],
  on: () => [translate("Continue"), translate("Runs the graph again and continues from here.")],
};

/** How far a phase is: the server's "2 of 4". */
function counted(detail) {
  const [, done, all] = /^(\d+) of (\d+)$/.exec(detail) ?? [];
  return all ? translate("{done} of {all}", { done, all }) : translateSentence(detail);
}

const withDetail = (words, detail) => (detail ? `${words} · ${counted(detail)}` : words);

/** What the first line says in each phase of a run. */
const HEADLINES = {
  reading: ({ pairs }) => translate(pairs === 1 ? "Reading 1 pair" : "Reading {pairs} pairs", { pairs }),
  encoding: ({ pairs, detail }) => {
    const words = translate(pairs === 1 ? "Encoding 1 pair" : "Encoding {pairs} pairs", { pairs });
    return withDetail(words, detail);
  },
  first: () => translate("Preparing the first step"),
  learning: ({ step, total, seconds_left }) => {
    const time = clock(seconds_left);
    const left = Number.isFinite(seconds_left) ? [translate("{time} left", { time })] : [];
    return [`${step} / ${total}`, ...left].join(" · ");
  },
  guidance: ({ detail }) => withDetail(translate("Comparing guidance scales"), detail),
  done: ({ step, total }) => translate("Done · {step} / {total}", { step, total }),
  used: ({ step, total }) => translate("Stopped at {step} / {total} and used", { step, total }),
  best: ({ step, total, held_out }) => {
    const best = bestOf(held_out)?.[0];
    return translate("Best of {step} / {total} used · step {best}", { step, total, best });
  },
  stopped: ({ step, total }) => translate(step ? "Stopped at {step} / {total}" : "Stopped", { step, total }),
};

const longer = (known, sent = []) => (sent.length > known.length ? sent : known);
const endedEarly = () => translate("Run gives this result again. Continue goes on from here.");

export class LearningPanel {
  /**
   * `act(action, run)` sends what a button asks for and returns a promise. `resize` is what a button can do
   * about images that are too large: it gets their best size, and returns whether there is a node to set.
   */
  constructor({ act, resize }) {
    this.act = act;
    this.resize = resize;
    this.chart = new LossChart();
    this.previews = new Previews();
    this.bar = element("progress", { class: "ib-bar", max: 1, value: 0, "aria-label": translate("Steps") });
    this.words = element("div", { class: "ib-words", role: "status" });
    this.message = element("div", { class: "ib-message" });
    this.advice = element("div", { class: "ib-advice" });
    this.buttons = element("div", { class: "ib-choices ib-actions" });
    this.root = element(
      "div",
      { class: "ib-panel ib-learning" },
      this.words,
      this.bar,
      this.message,
      this.advice,
      this.chart.root,
      this.previews.root,
      this.buttons,
    );
    this.start({});
    this.words.textContent = translate("Not run yet");
  }

  /** Forgets the last run. */
  start({ run }) {
    this.run = run;
    this.state = { held_out: [] };
    this.losses = [];
    this.previews.clear();
    this.setAdvice({});
    this.setButtons([]);
  }

  /**
   * Shows a message of a run. `losses` are those since the last message, and `first` is the number of steps
   * before them, so that a lost message does no harm. `previews` has all previews, `preview` a new one.
   */
  show(message) {
    if (message.run !== this.run) this.start(message);
    const { losses = [], first = this.losses.length, pair, advice } = message;
    const { preview, preview_step, previews } = message;
    if (pair?.length) this.previews.setPair(pair);
    if (previews) this.previews.complete(previews);
    if (preview) this.previews.add(preview_step, preview);
    if (advice) this.setAdvice(advice);
    while (this.losses.length < first) this.losses.push(NaN);
    losses.forEach((loss, i) => (this.losses[first + i] = loss));
    const held_out = longer(this.state.held_out, message.held_out);
    // After a reload a message may come twice, or after a newer one.
    if (!(this.state.step > message.step)) {
      // A button that was pressed acts in its phase; the next phase offers new ones.
      if (message.phase !== this.state.phase) this.offered = undefined;
      Object.assign(this.state, message);
      this.setButtons(message.actions ?? []);
    }
    this.state.held_out = held_out;
    this.draw();
  }

  draw() {
    const { phase, step, total, state, held_out } = this.state;
    this.bar.max = total;
    this.bar.value = step;
    const parts = [HEADLINES[phase]?.(this.state) ?? phase];
    const loss = smooth(this.losses.filter(Number.isFinite)).at(-1);
    const withLoss = ["learning", "guidance", "done"].includes(phase);
    if (withLoss && loss !== undefined) parts.push(translate("loss {loss}", { loss: brief(loss) }));
    const words = parts.join(" · ");
    if (this.words.textContent !== words) this.words.textContent = words;
    const ended = phase === "used" || phase === "best";
    const message = [translateSentence(state), ended && endedEarly()].filter(Boolean).join("\n");
    if (this.message.textContent !== message) this.message.textContent = message;
    this.chart.draw(this.losses, total, held_out);
    if (ended) this.setButtons(["on"]);
  }

  /** Offers actions; buttons that stay keep the focus. */
  setButtons(actions) {
    const key = actions.join();
    if (key === this.offered) return;
    this.offered = key;
    this.buttons.replaceChildren(
      ...actions.map((action) => {
        const [text, title] = BUTTONS[action]();
        return button(text, () => this.ask(action), { title });
      }),
    );
    this.buttons.hidden = !actions.length;
  }

  async ask(action) {
    for (const each of this.buttons.children) each.disabled = true;
    try {
      await this.act(action, this.run);
    } catch (error) {
      this.message.textContent = error.message;
      for (const each of this.buttons.children) each.disabled = false;
    }
  }

  /** Advice about the images' size, with a button that sets the size where the pairs are loaded. */
  setAdvice({ text = "", size }) {
    this.advice.replaceChildren(element("span", { text: translateSentence(text) }));
    this.advice.hidden = !text;
    if (!size || !this.resize.possible()) return;
    const use = () => {
      this.resize.set(size);
      const text = translate("The size is set to {size}. Stop this run and run again.", { size });
      this.advice.replaceChildren(element("span", { text }));
    };
    const title = translate("Sets the size of Load Edit Pairs to {size}", { size });
    this.advice.append(button(translate("Use {size}", { size }), use, { title }));
  }
}
