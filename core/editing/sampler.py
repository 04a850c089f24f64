"""Editing images without ComfyUI: dual-guided Euler ancestral sampling."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ..devices import to_device
from ..diffusion.guidance import dual_guidance
from ..diffusion.region_blending import Region, blend, blended_states
from ..diffusion.schedule import TRAIN_TIMESTEPS, fixed_generator
from ..instruction.injection import GroupedInjection, Injection
from .denoiser import Denoiser
from .settings import DEFAULT_SAMPLING, SamplingSettings


@torch.no_grad()
def edit_latents(
    denoiser: Denoiser,
    image_latent: Tensor,
    context: Tensor,
    null_context: Tensor,
    injection: Injection | None = None,
    settings: SamplingSettings = DEFAULT_SAMPLING,
    region: Region | None = None,
) -> Tensor:
    """Samples the edit of each image by Eq. 3, with one model call per step for all images and branches.

    Nothing in the loop waits for the device. An image's result does not depend on the other images of its batch.

    Args:
        denoiser: the model.
        image_latent: image conditions [B, C, h, w], see ``Denoiser.predict``.
        context: text states of the instruction's words, [L, D] or [B, L, D].
        null_context: text states of "", [L, D].
        injection: learned keys and values. They act in the instructed branch only; both null branches keep the model's own.
        settings: steps, scales, seed and noise.
        region: where the edit may act (Eq. 1 of UltraEdit); outside, the result is the source.

    Returns:
        Scaled latents [B, 4, h, w], ready for the decoder.
    """
    batch = image_latent.shape[0]
    device = denoiser.device
    steps = settings.steps
    text_scale = settings.text_scale_for(denoiser.description.family)
    seeds = settings.seeds(batch)
    timesteps, sigmas = _schedule(steps)
    coming = [round(t) for t in timesteps] if settings.fixed_noise else []
    generators = (
        [fixed_generator(TRAIN_TIMESTEPS - 1, seeds[0])] * batch
        if settings.fixed_noise
        else [Generator().manual_seed(each) for each in seeds]
    )
    shape = (denoiser.description.family.latent_channels, *image_latent.shape[2:])
    noise = _draw(shape, generators, device)
    latents = noise * sigmas[0]
    blended = set() if region is None else set(blended_states(steps, region.every))
    source, mask = (None, None) if region is None else (region.source.to(device), region.mask.to(device))
    # The branches of Eq. 3 one after another: image and instruction, image alone, neither.
    image_latent, null = image_latent.to(device), null_context.to(device).expand(2 * batch, -1, -1)
    images = torch.cat([image_latent, image_latent, torch.zeros_like(image_latent)])
    contexts = torch.cat([context.to(device).expand(batch, -1, -1), null])
    injections = (
        None if injection is None or injection.is_identity else GroupedInjection([injection, None, None])
    )
    times = torch.tensor(timesteps, device=device)
    for index, sigma in enumerate(sigmas[:-1]):
        noisy = latents / math.sqrt(sigma**2 + 1)
        full, image, none = denoiser.predict(
            noisy.repeat(3, 1, 1, 1), times[index].expand(3 * batch), images, contexts, injections
        ).chunk(3)
        guided = dual_guidance(none, image, full, settings.image_scale, text_scale)
        down, up = _ancestral(sigma, sigmas[index + 1])
        latents = torch.add(latents, guided, alpha=down - sigma)
        if up:
            if settings.fixed_noise:
                generators = [fixed_generator(coming[index + 1], seeds[0])] * batch
            latents = torch.add(latents, _draw(shape, generators, device), alpha=up)
        if source is not None and mask is not None and index + 1 in blended:
            latents = blend(mask, source + sigmas[index + 1] * noise, latents)
    return latents


def _schedule(steps: int) -> tuple[list[float], list[float]]:
    """Timesteps, one for each step, and noise levels, one more: the last is 0."""
    # Imported here: diffusers takes a second, and ComfyUI imports this module when it starts.
    from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

    scheduler: Any = EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=TRAIN_TIMESTEPS
    )
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.tolist(), scheduler.sigmas.tolist()


def _ancestral(sigma: float, coming: float) -> tuple[float, float]:
    """Where a step of Euler ancestral goes without noise, and how much noise it then adds."""
    up = math.sqrt(coming**2 * (sigma**2 - coming**2) / sigma**2)
    return math.sqrt(coming**2 - up**2), up


def _draw(shape: tuple[int, ...], generators: Sequence[Generator], device: torch.device) -> Tensor:
    """Noise on the device, a row from every generator; one that stands in several rows gives them the same."""
    drawn = {generator: torch.randn(shape, generator=generator) for generator in dict.fromkeys(generators)}
    return to_device(torch.stack([drawn[generator] for generator in generators]), device)
