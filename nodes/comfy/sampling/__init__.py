"""Sampling with ComfyUI's MODEL."""
