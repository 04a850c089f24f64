"""Editing pictures without ComfyUI: dual-guided Euler ancestral sampling."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from ..models.denoiser import Denoiser
from .guidance import dual_guidance
from .injection import Injection
from .region import Region, blend, blended_states
from .schedule import TRAIN_TIMESTEPS, fixed_generator


@torch.no_grad()
def edit_latents(
    denoiser: Denoiser,
    image_latent: Tensor,
    context: Tensor,
    null_context: Tensor,
    injection: Injection | None = None,
    *,
    steps: int = 20,
    text_scale: float = 7.5,
    image_scale: float = 1.5,
    seed: int = 0,
    fixed_noise: bool = False,
    region: Region | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Sample the edit of each picture by Eq. 3.

    Args:
        denoiser: the model.
        image_latent: image conditions [B, C, h, w], see :meth:`~..models.denoiser.Denoiser.predict`.
        context: text states of the instruction's words, [L, D] or [B, L, D].
        null_context: text states of "", [L, D].
        injection: learned keys and values for the instructed branch alone; both null branches keep the model's own.
        steps: sampling steps.
        text_scale, image_scale: s_T and s_I.
        seed: every picture of the batch gets the noise it would get alone with ``seed + its index``.
        fixed_noise: begin with the noise that the last timestep was learned with and add at every step that of the timestep it goes to, the same for
            every picture; ``seed`` is then the one that the instruction was learned with.
        region: where the edit may act (Eq. 1 of UltraEdit); outside, the result is the source.
        callback: called with (steps done, steps in all).

    Returns:
        Scaled latents [B, 4, h, w], ready for the decoder.
    """
    # Imported here: diffusers takes a second, and ComfyUI imports this module when it starts.
    from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

    batch, device = image_latent.shape[0], denoiser.device
    scheduler: Any = EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
    scheduler.set_timesteps(steps, device=device)
    scheduler.set_begin_index(0)  # else it looks the index up on the device, and waits
    if fixed_noise:
        generators = [fixed_generator(TRAIN_TIMESTEPS - 1, seed) for _ in range(batch)]
        coming = [round(t) for t in scheduler.timesteps.tolist()[1:]] + [0]  # the last step adds none
    else:
        generators = [Generator().manual_seed(seed + index) for index in range(batch)]
    noise = _noise((denoiser.description.family.latent_channels, *image_latent.shape[2:]), generators, device)
    latents = noise * scheduler.init_noise_sigma
    blended = set() if region is None else set(blended_states(steps, region.every))
    image_latent = image_latent.to(device)
    context = context.to(device).expand(batch, -1, -1) if context.ndim == 2 else context.to(device)
    null = null_context.to(device).expand(2 * batch, -1, -1)
    both_images = torch.cat([image_latent, torch.zeros_like(image_latent)])
    for index, timestep in enumerate(scheduler.timesteps):
        noisy = scheduler.scale_model_input(latents, timestep)
        times = timestep.expand(batch)
        full = denoiser.predict(noisy, times, image_latent, context, injection)
        image, none = denoiser.predict(noisy.repeat(2, 1, 1, 1), times.repeat(2), both_images, null).chunk(2)
        guided = dual_guidance(none, image, full, image_scale, text_scale)
        if fixed_noise:
            generators = [fixed_generator(coming[index], seed) for _ in range(batch)]
        latents = scheduler.step(guided, timestep, latents, generator=generators).prev_sample
        if region is not None and index + 1 in blended:
            source = region.source.to(device)
            latents = blend(region.mask.to(device), source + scheduler.sigmas[index + 1] * noise, latents)
        if callback is not None:
            callback(index + 1, steps)
    return latents


def _noise(shape: tuple[int, ...], generators: list[Generator], device: torch.device) -> Tensor:
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
