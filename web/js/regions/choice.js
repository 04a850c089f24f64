// Which boxes of Find Region are kept, as the server decides it: by score, and by what the user clicked.

/** Reads the node's hidden input "selection". */
export function parseSelection(text) {
  try {
    const { out = [], in: included = [] } = JSON.parse(text);
    return { out: new Set(out), in: new Set(included) };
  } catch {
    return { out: new Set(), in: new Set() };
  }
}

/** The opposite of parseSelection; empty if nothing was clicked. */
export function writeSelection(selection) {
  if (!selection.out.size && !selection.in.size) return "";
  return JSON.stringify({ out: [...selection.out], in: [...selection.in] });
}

/** Returns the keys of the objects that are kept. Objects are in the order of their scores, best first. */
export function keptKeys(objects, { threshold, most }, selection) {
  const byScore = objects.filter(({ score }) => score > threshold).slice(0, most);
  const kept = new Set(byScore.map(({ key }) => key).filter((key) => !selection.out.has(key)));
  for (const { key } of objects) if (selection.in.has(key)) kept.add(key);
  return kept;
}

/** Changes the selection so that an object is kept, or not. */
export function toggle(objects, limits, selection, key) {
  const kept = keptKeys(objects, limits, selection).has(key);
  const plain = keptKeys(objects, limits, { out: new Set(), in: new Set() }).has(key);
  selection.out.delete(key);
  selection.in.delete(key);
  if (kept && plain) selection.out.add(key);
  else if (!kept && !plain) selection.in.add(key);
}
