"""Region blending (UltraEdit, Eq. 1) in ComfyUI: a MODEL that restores the source outside a mask.

The mask travels as the noise mask of the LATENT. ComfyUI would blend the model's input and prediction with
it, at every step, but not the sampler's state. Eq. 1 changes the state, and only at some steps. So the
sampler gets no noise mask. Instead, the state is blended in place when the sampler passes it to the model.
"""

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....core.diffusion.region_blending import blend, blended_states
from ....core.errors import RegionError
from ....core.regions.masks import fit_mask, mask_batch
from ....core.storage.image_sizes import VAE_STRIDE, size_before_vae_crop, vae_crop

KEY = "instructbrush_region"
# Of VAEs: Stable Diffusion's and most others', then those of models with larger latent pixels. ComfyUI scales
# the mask to the latent, so only the crop depends on it.
_STRIDES = (VAE_STRIDE, 16, 32)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """What blending needs to know of a sampling run."""

    mask: Tensor
    source: Tensor
    noise: Tensor
    sigmas: Tensor
    """Noise levels of the states that are blended during the run, without the last state."""
    model: Any

    def noised(self, sigma: Tensor) -> Tensor:
        """The source at noise level ``sigma`` [1], with the run's noise."""
        return self.model.scale_latent_inpaint(
            x=self.source, sigma=sigma, noise=self.noise, latent_image=self.source
        )


def keep_region(model: ModelPatcher, every: int) -> ModelPatcher:
    """Returns a MODEL that samples by Eq. 1, with the noise mask of the LATENT.

    Args:
        model: any MODEL. For one that already keeps a region, ``every`` is replaced.
        every: steps between blendings, see ``blended_states``.

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
    """Returns a LATENT with a noise mask.

    ComfyUI crops images whose sides are not multiples of the VAE's stride. A mask of such an image, at any
    resolution, is cropped alike.

    Args:
        latent: the LATENT of the source. It is not changed.
        mask: the mask, in a form that ``mask_batch`` (core/regions/masks.py) accepts.

    Raises:
        RegionError: the latent is empty, or the mask does not fit.
    """
    samples = latent["samples"]
    if not torch.count_nonzero(samples):
        raise RegionError(
            "Region Edit: the LATENT is empty, so there is no image to keep outside the mask. "
            "Connect VAE Encode of the image that is edited, not the empty latent of a conditioning node."
        )
    mask = mask_batch(mask)
    for stride in _STRIDES:
        height, width = (side * stride for side in samples.shape[-2:])
        full_size = size_before_vae_crop((mask.shape[-2], mask.shape[-1]), (height, width), stride)
        if full_size is not None:
            top, left, _, _ = vae_crop(*full_size, stride)
            mask = fit_mask(mask, *full_size, len(mask))[:, top : top + height, left : left + width]
            break
    else:
        height, width = (side * VAE_STRIDE for side in samples.shape[-2:])
    return {**latent, "noise_mask": fit_mask(mask, height, width, len(samples)).reshape(-1, 1, height, width)}


class _SamplerInputs(NamedTuple):
    """The last arguments of a sampler."""

    noise: Tensor
    latent_image: Tensor
    denoise_mask: Tensor | None = None
    disable_pbar: bool = False


@dataclass(frozen=True)
class _Sampling:
    """Wraps a sampling run."""

    every: int

    def __call__(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        inputs = _SamplerInputs(*args, **kwargs)
        mask = inputs.denoise_mask
        if mask is None:
            raise RegionError(
                "Region Edit: its MODEL reached the sampler but its LATENT did not, so there is no region. "
                "Connect the LATENT output of Region Edit to the sampler."
            )
        if not torch.count_nonzero(inputs.noise):
            raise RegionError(
                "Region Edit: this sampler adds no noise, so it goes on from another sampler's latent, and "
                "the image outside the mask is not known. Sample in one go, with noise and the LATENT of "
                "Region Edit."
            )
        if "denoise_mask_function" in extra_args["model_options"]:
            logger.warning(
                "InstructBrush: Region Edit: Differential Diffusion does nothing beside it. Use one of them."
            )
        model = guider.inner_model
        states = blended_states(len(sigmas) - 1, self.every)
        # The mask may have one channel for each of the latent's channels, all equal.
        mask = mask[:, :1] if mask.ndim == 4 else mask
        run = _Run(mask, inputs.latent_image, inputs.noise, sigmas[states[:-1]], model)
        options = extra_args["model_options"].copy()
        options["transformer_options"] = {**options.get("transformer_options", {}), KEY: run}
        extra_args["model_options"] = options
        # Computed before the run, because some samplers change sigmas in place.
        final_source = run.source
        if float(sigmas[-1]) != 0.0:
            # Noise is left at the end, for another sampler to continue.
            final_source = model.model_sampling.inverse_noise_scaling(sigmas[-1], run.noised(sigmas[-1:]))
        samples = executor(
            guider,
            sigmas,
            extra_args,
            _kept(callback, run),
            inputs.noise.clone(),
            inputs.latent_image,
            None,
            inputs.disable_pbar,
        )
        return blend(run.mask, final_source, samples)


def _kept(callback: Any, run: _Run) -> Any:
    """A sampler's callback that gets predictions with the source outside the mask, as in the result."""
    if callback is None:
        return None
    return lambda step, x0, x, total: callback(step, blend(run.mask, run.source, x0), x, total)


def _predict(
    executor: Any,
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any] | None = None,
    seed: int | None = None,
) -> Tensor:
    """Wraps a model call: blends the sampler's state first if it is one of the blended states."""
    run: _Run | None = (model_options or {}).get("transformer_options", {}).get(KEY)
    if run is not None and len(run.sigmas):
        # Compared on the device to avoid waiting for it. Stages between two steps have other noise levels.
        # heun's second stage has the level of the next step, so heun blends twice in a step. uni_pc keeps
        # its state elsewhere, so only its predictions and the result are blended.
        is_blended = (run.sigmas == timestep[0]).any()
        x.copy_(torch.where(is_blended, blend(run.mask, run.noised(timestep[:1]), x), x))
    return executor(x, timestep, model_options, seed)
