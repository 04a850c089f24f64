"""Loads models in ComfyUI, detects and describes them."""
