"""Encoders that share the device with ComfyUI's models."""
