// What the board decides about pairs: the value of the node's hidden input "board", which core/pairs/board.py
// reads.

const LISTS = ["order", "skip", "swap", "no_mask"];

/** Parses the input's text. A text that is no board is no decision; the node itself says what is wrong. */
export function parseBoard(text) {
  let given = {};
  try {
    given = JSON.parse(text || "{}") ?? {};
  } catch {
    given = {};
  }
  const lists = LISTS.map((name) => [name, Array.isArray(given[name]) ? given[name].map(String) : []]);
  return { ...Object.fromEntries(lists), held_out: typeof given.held_out === "string" ? given.held_out : "" };
}

/** The text of a board; empty without decisions. */
export function writeBoard(board) {
  const kept = Object.entries(board).filter(([, value]) => value.length);
  return kept.length ? JSON.stringify(Object.fromEntries(kept)) : "";
}

/** Complete pairs in the board's order, then images without their partners. */
export function arranged(pairs, board) {
  const place = new Map(board.order.map((key, index) => [key, index]));
  const of = (pair) => (pair.key === "" ? Infinity : (place.get(pair.key) ?? board.order.length));
  return pairs
    .map((pair, index) => ({ pair, index }))
    .sort((one, other) => of(one.pair) - of(other.pair) || one.index - other.index);
}

/** The board with a pair added to a list, or taken out of it. */
export function toggled(board, list, key) {
  const has = board[list].includes(key);
  return { ...board, [list]: has ? board[list].filter((each) => each !== key) : [...board[list], key] };
}

/** The board with another held-out pair; the same pair again means none. */
export function starred(board, key) {
  return { ...board, held_out: board.held_out === key ? "" : key };
}

/** The board with the pair `key` moved to a place among all complete pairs. */
export function moved(board, pairs, key, place) {
  const natural = pairs.map((pair) => pair.key).filter((each) => each !== "");
  const order = arranged(pairs, board)
    .map(({ pair }) => pair.key)
    .filter((each) => each !== "" && each !== key);
  order.splice(Math.max(0, Math.min(place, order.length)), 0, key);
  // The reader's own order needs no words.
  return { ...board, order: order.every((each, index) => each === natural[index]) ? [] : order };
}
