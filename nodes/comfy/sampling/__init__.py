"""Editing in ComfyUI: denoiser engine, instruction patch, guidance, regions, noise and text encoding."""
