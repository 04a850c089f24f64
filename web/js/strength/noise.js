// The rules of the noise axis, without elements: timesteps, segments and their strengths.

export const MOST = 1000;
const STEP = 10;
/** How near a dragged handle comes to the border of a segment before it takes it. */
const CATCH = 14;

/** Reads "1, 1, 0.5" (from low to high noise); null if it is empty or no list of numbers. */
export function parseFactors(text) {
  const words = String(text ?? "").replaceAll(";", ",").split(",");
  const numbers = words.map((word) => (word.trim() ? Number(word) : NaN));
  return numbers.every(Number.isFinite) ? numbers : null;
}

/** Whether the node can use a list: empty, one number for all segments, or one for each. */
export function fits(text, segments) {
  if (!String(text ?? "").trim()) return true;
  const length = parseFactors(text)?.length;
  return length === 1 || length === segments;
}

/** The factors of all segments. A single one counts for all, and a list that does not fit is left out. */
export function factorsOf(text, segments) {
  const given = parseFactors(text) ?? [1];
  if (given.length === segments) return given;
  return Array(segments).fill(given.length === 1 ? given[0] : 1);
}

/** Writes factors as the node reads them; empty if all are 1, which is the default. */
export function writeFactors(factors) {
  if (factors.every((factor) => factor === 1)) return "";
  return factors.map((factor) => String(Math.round(factor * 100) / 100)).join(", ");
}

/** The place of a timestep on the axis in percent: noise is left, detail right. */
export function placeOf(timestep) {
  return (100 * (MOST - timestep)) / MOST;
}

/** The timestep at a place between 0 (left) and 1, in whole steps or at the border of a segment. */
export function timestepAt(place, segments) {
  const exact = MOST * (1 - Math.min(1, Math.max(0, place)));
  const borders = Array.from({ length: segments + 1 }, (_, index) => Math.ceil((index * MOST) / segments));
  const near = borders.find((border) => Math.abs(border - exact) <= CATCH);
  return near ?? Math.round(exact / STEP) * STEP;
}

/** Keeps the start above the end, and both on the axis. */
export function clamped(name, timestep, { start, end }) {
  if (name === "start") return Math.min(MOST, Math.max(timestep, end + STEP));
  return Math.max(0, Math.min(timestep, start - STEP));
}

/** The timestep that a key moves a handle to; undefined for other keys. Left is more noise. */
export function afterKey(key, timestep, faster) {
  const step = faster ? 10 * STEP : STEP;
  if (key === "ArrowLeft" || key === "ArrowUp") return timestep + step;
  if (key === "ArrowRight" || key === "ArrowDown") return timestep - step;
  if (key === "Home") return MOST;
  return key === "End" ? 0 : undefined;
}
