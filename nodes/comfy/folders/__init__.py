"""ComfyUI's folders."""
