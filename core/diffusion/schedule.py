"""Timesteps and the segments they fall into."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

TRAIN_TIMESTEPS = 1000
SEEDS = 2**64
"""How many seeds there are: 0 .. 2^64 - 1. What is computed from them wraps around."""


def segment_of(timesteps: Tensor, segments: int) -> Tensor:
    """The segment each timestep belongs to: ``min(j - 1, floor(t / (1000 / j)))`` (InstructBrush, section 4.1).

    The segment follows the timestep, never the index of a sampling step, so an instruction acts alike under any sampler and number of steps.

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
    """First and one-past-last integer timestep of a segment; the inverse of :func:`segment_of`."""
    first = -(-segment * TRAIN_TIMESTEPS // segments)
    last = TRAIN_TIMESTEPS if segment == segments - 1 else -(-(segment + 1) * TRAIN_TIMESTEPS // segments)
    return first, last


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """The forward process ``sqrt(abar_t) z + sqrt(1 - abar_t) e``.

    Written out because diffusers' Euler schedulers add noise in the unscaled (sigma) form and cache a step index.

    Args:
        latents: clean target latents [B, C, h, w].
        noise: standard normal, same shape.
        timesteps: int64 [B].
        alphas_cumprod: [1000].
    """
    abar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return abar.sqrt() * latents + (1 - abar).sqrt() * noise


def fixed_generator(timestep: int, seed: int) -> Generator:
    """A generator on the CPU whose first draw is the noise that a timestep keeps."""
    return Generator().manual_seed((seed * TRAIN_TIMESTEPS + timestep) % SEEDS)


def fixed_noise(shape: Sequence[int], timestep: int, seed: int) -> Tensor:
    """The noise that a timestep keeps, standard normal of the given shape on the CPU.

    Visii draws the noise of every timestep once, learns with it and samples with it again. Drawn from (seed, timestep), it need not be stored:
    equal arguments give equal noise, bit for bit.
    """
    return torch.randn(*shape, generator=fixed_generator(timestep, seed))
