"""Edits images on the diffusers engine: model loading, the ``Denoiser`` protocol, and the sampler."""
