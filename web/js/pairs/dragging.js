// Moves a tile by dragging its handle with mouse, pen or finger.

export class Dragging {
  /**
   * @param tiles the element of the tiles
   * @param move called with a pair's key and its new place among the complete pairs
   */
  constructor(tiles, move) {
    this.tiles = tiles;
    this.move = move;
  }

  start(event, key) {
    if (event.button) return;
    event.preventDefault();
    event.stopPropagation();
    const handle = event.currentTarget;
    handle.focus();
    handle.setPointerCapture(event.pointerId);
    const dragged = this.#tileOf(handle);
    dragged.classList.add("ib-dragged");
    let target = null;
    const over = (moving) => {
      moving.stopPropagation();
      const under = this.#tileOf(document.elementFromPoint(moving.clientX, moving.clientY));
      if (under === target) return;
      target?.classList.remove("ib-target");
      target = under !== dragged && under?.dataset.key ? under : null;
      target?.classList.add("ib-target");
    };
    const end = (ending) => {
      ending.stopPropagation();
      handle.removeEventListener("pointermove", over);
      dragged.classList.remove("ib-dragged");
      target?.classList.remove("ib-target");
      if (target && ending.type === "pointerup") this.move(key, [...this.tiles.children].indexOf(target));
    };
    handle.addEventListener("pointermove", over);
    handle.addEventListener("pointerup", end, { once: true });
    handle.addEventListener("pointercancel", end, { once: true });
  }

  #tileOf(place) {
    const found = place?.closest?.(".ib-pair");
    return found && this.tiles.contains(found) ? found : null;
  }
}
