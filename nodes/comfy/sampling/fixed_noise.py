"""Visii's fixed noise as ComfyUI's NOISE and SAMPLER: sampling uses the noise that learning used."""

from typing import Any

import comfy.samplers
import torch
from comfy.k_diffusion.sampling import sample_euler_ancestral
from comfy.model_sampling import ModelSamplingContinuousEDM
from torch import Tensor

from ....core.devices import to_device
from ....core.diffusion.schedule import TRAIN_TIMESTEPS, fixed_noise
from .instruction_patch import train_timesteps


class FixedNoise:
    """NOISE: the fixed noise of the last timestep, where sampling starts. The same for all images."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """Noise in the shape of a LATENT, on the CPU."""
        samples = input_latent["samples"]
        noise = fixed_noise(samples.shape[1:], TRAIN_TIMESTEPS - 1, self.seed)
        return noise.to(samples.dtype).expand(samples.shape).clone()


def fixed_noise_sampler(seed: int) -> comfy.samplers.KSAMPLER:
    """Euler ancestral sampler that adds, at every step, the fixed noise of the timestep it reaches."""

    def sample(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        sampling = model.inner_model.model_patcher.get_model_object("model_sampling")
        # Read all at once: reading one by one would wait for the device at every step.
        edm = isinstance(sampling, ModelSamplingContinuousEDM)
        positions = train_timesteps(sampling.timestep(sigmas[1:]), edm)
        next_timesteps = iter(positions.round().int().tolist())

        def noise_sampler(_: Tensor, __: Tensor) -> Tensor:
            noise = fixed_noise(x.shape[1:], next(next_timesteps), seed)
            return to_device(noise, x.device).to(x.dtype).expand_as(x)

        return sample_euler_ancestral(model, x, sigmas, noise_sampler=noise_sampler, **options)

    return comfy.samplers.KSAMPLER(torch.no_grad()(sample))
