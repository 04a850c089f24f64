// Hides widgets of nodes in both renderers. Hidden widgets are saved and sent as before.
import { rootGraph } from "../graph.js";
import { isLinked } from "../nodes.js";

/** Height of a widget's row. */
const ROW = { classic: 24, vue: 34 };

/** Whether the workflow's page (App Mode) shows the widget. */
function isOnPage(node, name) {
  const chosen = rootGraph()?.extra?.linearData?.inputs ?? [];
  return chosen.some(([id, input]) => input === name && String(id).split(":").includes(String(node.id)));
}

/**
 * Hides the widgets for which `hidden(name)` holds and shows the others. Inputs that are linked, and those of
 * the workflow's page, stay visible. The node becomes as much smaller or larger, unless `resize` is false.
 */
export function hideWidgets(node, hidden, { resize = true } = {}) {
  let rows = 0;
  let changed = false;
  for (const widget of node.widgets ?? []) {
    const wanted = hidden(widget.name);
    if (wanted === undefined) continue;
    const now = wanted && !isLinked(node, widget.name) && !isOnPage(node, widget.name);
    if (widget.options && widget.options.hidden === now && Boolean(widget.hidden) === now) continue;
    if (Boolean(widget.hidden) !== now) rows += now ? -1 : 1;
    // The classic renderer reads the first, the Vue renderer the second.
    widget.hidden = now;
    widget.options = Object.assign(widget.options ?? {}, { hidden: now });
    changed = true;
  }
  if (!changed) return;
  if (resize) growBy(node, rows);
  redraw(node);
}

/** Makes a node larger by a number of rows, but never smaller than its content. */
export function growBy(node, rows) {
  const height = node.size[1] + rows * (LiteGraph.vueNodesMode ? ROW.vue : ROW.classic);
  fit(node, height);
}

/** Gives a node a height, but never less than its content has. */
export function fit(node, height) {
  const [width, content] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(content, height)]);
}

function redraw(node) {
  // The Vue renderer looks at its widgets again when this property is set.
  node.showAdvanced = node.showAdvanced;
  node.graph?.setDirtyCanvas?.(true, true);
}
