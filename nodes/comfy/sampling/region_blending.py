"""Eq. 1 of UltraEdit in ComfyUI: a MODEL that puts the source back outside the mask while it samples.

The mask travels in the LATENT as its noise mask. ComfyUI by itself would mix with it what the model sees and what it predicts, at every step, and leave the
sampler's own state as it was. Eq. 1 changes the state, and only at some steps. So the noise mask is taken away from the sampler, and the
states that the equation names are blended where they are: samplers hand the model their own state.
"""

from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....core.diffusion.region_blending import blend, blended_states
from ....core.errors import RegionError
from ....core.regions.masks import fit_mask, mask_batch
from ....core.storage.image_sizes import size_before_vae_crop, vae_crop

KEY = "instructbrush_region"
_STRIDE = 8


@dataclass(frozen=True)
class _Run:
    """One sampling run."""

    mask: Tensor
    source: Tensor
    noise: Tensor
    sigmas: Tensor
    """Noise levels of the states that are blended while the run goes on; the last state is not among them."""
    model: Any

    def noised(self, sigma: Tensor) -> Tensor:
        """The source, noised with the run's own noise, sigma [1]."""
        return self.model.scale_latent_inpaint(
            x=self.source, sigma=sigma, noise=self.noise, latent_image=self.source
        )


def keep_region(model: ModelPatcher, every: int) -> ModelPatcher:
    """A MODEL that samples by Eq. 1 with the noise mask of the LATENT it is given.

    Args:
        model: any MODEL; one that keeps a region already is given the new number of steps.
        every: as in :func:`blended_states`.

    Raises:
        RegionError: ``every`` is below 1.
    """
    blended_states(1, every)
    kept = model.clone()
    kept.remove_wrappers_with_key(WrappersMP.SAMPLER_SAMPLE, KEY)
    kept.remove_wrappers_with_key(WrappersMP.PREDICT_NOISE, KEY)
    kept.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _Sampling(every))
    kept.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _predict)
    return kept


def with_region(latent: dict[str, Any], mask: Tensor) -> dict[str, Any]:
    """A LATENT that carries a mask, what core's ``mask_batch`` takes.

    A mask of an image whose sides are no multiples of 8, at any resolution, is cropped as ComfyUI crops the image.

    Raises:
        RegionError: an empty latent, or a mask that does not fit.
    """
    samples = latent["samples"]
    if not torch.count_nonzero(samples):
        raise RegionError(
            "Region Edit: the LATENT is empty, so there is no image to keep outside the mask. "
            "Connect VAE Encode of the image that is edited, not the empty latent of a conditioning node."
        )
    height, width = (side * _STRIDE for side in samples.shape[-2:])
    mask = mask_batch(mask)
    whole = size_before_vae_crop((mask.shape[-2], mask.shape[-1]), (height, width))
    if whole is not None:
        top, left, _, _ = vae_crop(*whole)
        mask = fit_mask(mask, *whole, len(mask))[:, top : top + height, left : left + width]
    return {**latent, "noise_mask": fit_mask(mask, height, width, len(samples)).reshape(-1, 1, height, width)}


@dataclass(frozen=True)
class _Sampling:
    """Around a whole sampling run."""

    every: int

    def __call__(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        if denoise_mask is None:
            raise RegionError(
                "Region Edit: its MODEL reached the sampler but its LATENT did not, so there is no region to keep to. "
                "Connect the LATENT output of Region Edit to the sampler."
            )
        model = guider.inner_model
        states = blended_states(len(sigmas) - 1, self.every)
        # With a channel for each of the latent's, all alike: one is enough.
        run = _Run(
            denoise_mask[:, :1] if denoise_mask.ndim == 4 else denoise_mask,
            latent_image,
            noise,
            sigmas[states[:-1]],
            model,
        )
        options = extra_args["model_options"] = extra_args["model_options"].copy()
        options["transformer_options"] = {**options.get("transformer_options", {}), KEY: run}
        # Asked before: some samplers change the levels they are given. Where noise is left at the end, another sampler goes on.
        last = (
            run.source
            if float(sigmas[-1]) == 0.0
            else model.model_sampling.inverse_noise_scaling(sigmas[-1], run.noised(sigmas[-1:]))
        )
        samples = executor(
            guider, sigmas, extra_args, callback, noise.clone(), latent_image, None, disable_pbar
        )
        return blend(run.mask, last, samples)


def _predict(
    executor: Any,
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any] | None = None,
    seed: int | None = None,
) -> Tensor:
    """Before the model is called: blend the sampler's state if it is one of those that the equation names."""
    run: _Run | None = (model_options or {}).get("transformer_options", {}).get(KEY)
    if run is not None and len(run.sigmas):
        # On the device, so that nothing waits for it. Stages between two steps have other noise levels, and are left alone.
        named = (run.sigmas == timestep[0]).any()
        x.copy_(torch.where(named, blend(run.mask, run.noised(timestep[:1]), x), x))
    return executor(x, timestep, model_options, seed)
