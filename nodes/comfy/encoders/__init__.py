"""Encoders in a ComfyUI installation: their folders, and their place on the device among ComfyUI's models."""
