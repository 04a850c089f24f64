"""Timesteps: their segments, the forward process, and the noise that belongs to each."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

TRAIN_TIMESTEPS = 1000
SEEDS = 2**64
"""Number of seeds: valid ones are 0 .. 2^64 - 1. Computed seeds wrap around."""


def segment_of(timesteps: Tensor, segments: int) -> Tensor:
    """The segment of each timestep: ``min(j - 1, floor(t / (1000 / j)))`` (InstructBrush, section 4.1).

    The segment depends on the timestep, not on the index of a sampling step. An instruction therefore acts
    alike with any sampler and number of steps.

    Args:
        timesteps: any shape, integer or float, in 0..999.
        segments: j, at least 1.

    Returns:
        int64 of the same shape, on the same device, in 0..j-1.
    """
    return (
        torch.div(timesteps * segments, TRAIN_TIMESTEPS, rounding_mode="floor").long().clamp(0, segments - 1)
    )


def segment_bounds(segment: int, segments: int) -> tuple[int, int]:
    """First and one-past-last integer timestep of a segment; the inverse of ``segment_of``."""
    first = -(-segment * TRAIN_TIMESTEPS // segments)
    last = TRAIN_TIMESTEPS if segment == segments - 1 else -(-(segment + 1) * TRAIN_TIMESTEPS // segments)
    return first, last


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """The forward process ``sqrt(abar_t) z + sqrt(1 - abar_t) e``.

    Written out because diffusers' Euler schedulers add noise in the unscaled (sigma) form and cache a step
    index.

    Args:
        latents: clean target latents [B, C, h, w].
        noise: standard normal, same shape.
        timesteps: int64 [B].
        alphas_cumprod: [1000].
    """
    abar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return abar.sqrt() * latents + (1 - abar).sqrt() * noise


def fixed_noise(shape: Sequence[int], timestep: int, seed: int) -> Tensor:
    """The fixed noise of a timestep (Visii): standard normal of the given shape, on the CPU.

    Visii draws the noise of every timestep once, and uses it for learning and for sampling. It need not be
    stored, because it depends on (shape, timestep, seed) only, bit for bit.
    """
    generator = Generator().manual_seed((seed * TRAIN_TIMESTEPS + timestep) % SEEDS)
    return torch.randn(*shape, generator=generator)
