"""The only code that touches ComfyUI's insides."""
