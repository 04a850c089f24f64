"""The mathematics of diffusion: noise schedule, timestep segments, guidance and region blending."""
