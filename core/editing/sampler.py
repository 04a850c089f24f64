"""Sampling edits on any ``Denoiser``: Euler ancestral steps with dual guidance (Eq. 3)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ..devices import to_device
from ..diffusion.guidance import dual_guidance, needed_branches
from ..diffusion.region_blending import Region, blend, blended_states
from ..diffusion.schedule import TRAIN_TIMESTEPS, fixed_noise
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
    """Samples the edit of each image by Eq. 3, with one model call per step for all images and branches, or
    two if ``Injection.joins`` says so.

    Branches whose coefficient is zero are not computed: with s_T = s_I = 1 the instructed branch alone is.
    The noise levels are those of the model's schedule. The loop never waits for the device. An image's result
    does not depend on the other images of its batch.

    Args:
        denoiser: the model.
        image_latent: image conditions [B, C, h, w], see ``Denoiser.predict``.
        context: text states of the instruction's words, [L, D] or [B, L, D].
        null_context: text states of "", [L, D].
        injection: learned keys and values. They act in the instructed branch only; both null branches keep
            the model's own.
        settings: steps, scales, seed and noise.
        region: where the edit may act (Eq. 1 of UltraEdit). Outside, the result is the source.

    Returns:
        Scaled latents [B, 4, h, w], ready for the decoder.
    """
    batch = image_latent.shape[0]
    device = denoiser.device
    family = denoiser.description.family
    scales = settings.scales_for(family)
    timesteps, sigmas = _schedule(settings.steps, denoiser.alphas_cumprod)
    draw = _noise_source((family.latent_channels, *image_latent.shape[2:]), batch, settings, device)
    noise = draw(TRAIN_TIMESTEPS - 1)
    latents = noise * sigmas[0]
    if region is not None:
        region = Region(region.mask.to(device), region.source.to(device), region.every)
    blended = set() if region is None else set(blended_states(settings.steps, region.every))
    branches = _Branches(denoiser, image_latent.to(device), (context, null_context), injection, scales)
    times = torch.tensor(timesteps, device=device)
    for index, sigma in enumerate(sigmas[:-1]):
        next_sigma = sigmas[index + 1]
        noisy = latents / math.sqrt(sigma**2 + 1)
        guided = branches.guided(noisy, times[index])
        sigma_down, sigma_up = _ancestral_step(sigma, next_sigma)
        latents = torch.add(latents, guided, alpha=sigma_down - sigma)
        if sigma_up:
            latents = torch.add(latents, draw(round(timesteps[index + 1])), alpha=sigma_up)
        if region is not None and index + 1 in blended:
            latents = blend(region.mask, region.source + next_sigma * noise, latents)
    return latents


class _Branches:
    """The needed branches of Eq. 3 as rows of one model call, or of two if ``Injection.joins`` says so.

    Args:
        denoiser: the model.
        image_latent: on its device.
        contexts: text states of the words and of "".
        injection: acts in the instructed branch.
        scales: s_T and s_I.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        image_latent: Tensor,
        contexts: tuple[Tensor, Tensor],
        injection: Injection | None,
        scales: tuple[float, float],
    ) -> None:
        self._denoiser = denoiser
        self._scales = scales
        self._needed = needed_branches(scales[1], scales[0])
        batch = image_latent.shape[0]
        words, null = (each.to(denoiser.device).expand(batch, -1, -1) for each in contexts)
        if injection is not None and injection.is_identity:
            injection = None
        no_image = torch.zeros_like(image_latent)
        branches = ((image_latent, words, injection), (image_latent, null, None), (no_image, null, None))
        chosen = [branch for branch, needed in zip(branches, self._needed, strict=True) if needed]
        groups = [chosen]
        if injection is not None and not injection.joins(words.shape[1]):
            groups = [
                [branch for branch in chosen if (branch[2] is None) == plain] for plain in (False, True)
            ]
        self._calls = [_Call(group) for group in groups if group]

    def guided(self, noisy: Tensor, time: Tensor) -> Tensor:
        """The guided prediction for all images at one timestep."""
        parts = (part for call in self._calls for part in call.predict(self._denoiser, noisy, time))
        full, image, none = (next(parts) if needed else None for needed in self._needed)
        text_scale, image_scale = self._scales
        return dual_guidance(none, image, full, image_scale, text_scale)


class _Call:
    """One model call with some branches of Eq. 3, each with image condition, text states and injection."""

    def __init__(self, branches: Sequence[tuple[Tensor, Tensor, Injection | None]]) -> None:
        images, contexts, injections = zip(*branches, strict=True)
        self._count = len(branches)
        self._images = torch.cat(images)
        self._contexts = torch.cat(contexts)
        self._injection = GroupedInjection(injections) if any(injections) else None

    def predict(self, denoiser: Denoiser, noisy: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        """The predictions of its branches for all images."""
        predicted = denoiser.predict(
            noisy.repeat(self._count, 1, 1, 1),
            time.expand(self._count * noisy.shape[0]),
            self._images,
            self._contexts,
            self._injection,
        )
        return predicted.chunk(self._count)


def _schedule(steps: int, alphas_cumprod: Tensor) -> tuple[list[float], list[float]]:
    """Timesteps, one for each step, and noise levels, one more than steps: the last is 0."""
    # Imported here: diffusers takes a second, and ComfyUI imports this module when it starts.
    from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

    scheduler: Any = EulerAncestralDiscreteScheduler(num_train_timesteps=TRAIN_TIMESTEPS)
    # Betas computed back from the model's abar would differ in the last digits.
    scheduler.alphas_cumprod = alphas_cumprod.cpu()
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.tolist(), scheduler.sigmas.tolist()


def _ancestral_step(sigma: float, next_sigma: float) -> tuple[float, float]:
    """The noise level that an Euler ancestral step reaches without noise, and the noise that it then adds."""
    up = math.sqrt(next_sigma**2 * (sigma**2 - next_sigma**2) / sigma**2)
    return math.sqrt(next_sigma**2 - up**2), up


def _noise_source(
    shape: tuple[int, ...], batch: int, settings: SamplingSettings, device: torch.device
) -> Callable[[int], Tensor]:
    """A function that draws the noise of a timestep, [batch, *shape] on the device."""
    seeds = settings.seeds(batch)
    if settings.fixed_noise:
        return lambda timestep: to_device(
            torch.stack([fixed_noise(shape, timestep, seeds[0])] * batch), device
        )
    generators = [Generator().manual_seed(seed) for seed in seeds]
    return lambda _: to_device(
        torch.stack([torch.randn(shape, generator=generator) for generator in generators]), device
    )
