"""Learning runs inside ComfyUI."""
