"""Models as ComfyUI loads them."""
