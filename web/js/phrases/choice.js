// The phrases that a user takes: the node's hidden input "chosen" as JSON, and the words made of them.

/** Phrases -> the JSON of those that are taken. */
export function writeChoice(phrases) {
  const of = (side) => phrases.filter((each) => each.taken && each.side === side).map((each) => each.text);
  return JSON.stringify({ before: of("before"), after: of("after") });
}

/** The opposite of writeChoice: { before, after }, or null without a choice. */
export function parseChoice(text) {
  try {
    const { before = [], after = [] } = JSON.parse(text);
    return { before, after };
  } catch {
    return null;
  }
}

/** The words that the node makes of the taken phrases; empty without a phrase of the images after. */
export function wordsOf(phrases) {
  const of = (side) => listed(phrases.filter((each) => each.taken && each.side === side));
  const after = of("after");
  return after && `turn ${of("before") || "it"} into ${after}`;
}

function listed(phrases) {
  const texts = phrases.map((each) => each.text);
  const last = texts.pop() ?? "";
  return texts.length ? `${texts.join(", ")} and ${last}` : last;
}

/**
 * Returns the length of a fit's bar, 0.04 to 1, on the scale of all fits: fits of different CLIPs lie in
 * different ranges.
 */
export function lengthOf(fit, phrases) {
  const fits = phrases.flatMap(({ before, after }) => [before, after]);
  const least = Math.min(...fits);
  const span = Math.max(...fits) - least;
  return span > 0 ? 0.04 + (0.96 * (fit - least)) / span : 1;
}
