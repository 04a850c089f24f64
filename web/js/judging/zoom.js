// Zoom and pan that all images share. Places are parts of an image's frame, so equal frames stay in step.

const MOST = 16;
const STEP = 1.25;

export class Zoom {
  /** @param changed is called after every change */
  constructor(changed) {
    this.changed = changed;
    this.reset();
  }

  reset() {
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.changed?.();
  }

  /** Zooms in (1) or out (-1) or by parts of such a step. Keeps what is at (x, y), 0 to 1 in the frame. */
  step(direction, x = 0.5, y = 0.5) {
    const scale = Math.min(MOST, Math.max(1, this.scale * STEP ** direction));
    const ratio = scale / this.scale;
    this.scale = scale;
    this.#moveTo(x - (x - this.left) * ratio, y - (y - this.top) * ratio);
  }

  /** Moves the images by parts of the frame. */
  pan(x, y) {
    this.#moveTo(this.left + x, this.top + y);
  }

  #moveTo(left, top) {
    const inside = (value) => Math.min(0, Math.max(1 - this.scale, value));
    this.left = inside(left);
    this.top = inside(top);
    this.changed?.();
  }

  /** The CSS transform of an image that fills its frame; its origin is the top left corner. */
  get transform() {
    return `translate(${100 * this.left}%, ${100 * this.top}%) scale(${this.scale})`;
  }

  /** Zooms with the wheel and pans by dragging in the frames in `area`. */
  listen(area, frameOf) {
    area.addEventListener(
      "wheel",
      (event) => {
        const frame = frameOf(event.target);
        if (!frame || event.ctrlKey) return;
        event.preventDefault();
        event.stopPropagation();
        const { left, top, width, height } = frame.getBoundingClientRect();
        const place = [(event.clientX - left) / width, (event.clientY - top) / height];
        this.step(Math.max(-1, Math.min(1, -event.deltaY / 100)), ...place);
      },
      { passive: false },
    );
    let dragged = null;
    area.addEventListener("pointerdown", (event) => {
      const frame = frameOf(event.target);
      if (!frame || event.button !== 0 || this.scale === 1) return;
      dragged = frame;
      area.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    area.addEventListener("pointermove", (event) => {
      if (!dragged) return;
      const { width, height } = dragged.getBoundingClientRect();
      this.pan(event.movementX / width, event.movementY / height);
    });
    const end = () => (dragged = null);
    area.addEventListener("pointerup", end);
    area.addEventListener("pointercancel", end);
    area.addEventListener("dblclick", () => this.reset());
  }
}
