"""Eq. 3 as a GUIDER for SamplerCustomAdvanced."""

import logging
from typing import Any

import comfy.samplers
import comfy.sd
import node_helpers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....core.diffusion.guidance import Branches, dual_guidance, needed_branches
from ....core.errors import InstructionError
from ..models.base_models import MASK_LATENT
from .instruction_patch import Conditioning

_KEY = "instructbrush_branches"
"""Names the wrapper, and in transformer options the guider's own calls, which have three branches."""
_IMAGE_LATENTS = ("concat_latent_image", MASK_LATENT)
# Model options with functions that change how two predictions are guided: RescaleCFG, APG, CFG++ and others.
_GUIDANCE_PATCHES = (
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
)
# Below this share of the largest noise level, sampling starts from the image and not from noise.
_FULL_NOISE = 0.7

logger = logging.getLogger(__name__)


class EditGuider(comfy.samplers.CFGGuider):
    """Guides with three branches: image and instruction, image alone, neither.

    The branches have the names and the order of ComfyUI's DualCFGGuider. Branches whose coefficient is zero
    are not computed; as in that guider they are passed on as None, and the model option
    ``disable_cfg1_optimization`` switches this off. Patches of guidance act on the first two branches, as on
    KSampler's positive and negative. Patches that tell branches apart by ``cond_or_uncond`` get 0 for the
    first and 1 for the others.
    """

    def __init__(self, model: ModelPatcher, text_scale: float, image_scale: float) -> None:
        model = model.clone()
        model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, _KEY)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, _KEY, _with_two_kinds_of_branches)
        super().__init__(model)
        self.text_scale = text_scale
        self.image_scale = image_scale

    def set_branches(self, full: Conditioning, image: Conditioning, none: Conditioning) -> None:
        """Sets the conditionings of the three branches. A ControlNet of the first acts in all of them."""
        full = [
            [states, {**options, "control_apply_to_uncond": True} if "control" in options else options]
            for states, options in full
        ]
        self.inner_set_conds({"positive": full, "middle": image, "negative": none})

    def sample(
        self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Samples. A latent that repeats the batch of images gets them in the same order.

        Raises:
            InstructionError: the number of latents is no multiple of the number of images.
        """
        self._warn_of_latent(noise, latent_image, sigmas)
        given = self.original_conds
        self.original_conds = {
            name: [_repeated(entry, len(noise)) for entry in entries] for name, entries in given.items()
        }
        try:
            return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            self.original_conds = given

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The guided clean latent. Eq. 3 holds for it too, because its coefficients sum to one."""
        options = model_options or {}
        needed = needed_branches(self.image_scale, self.text_scale)
        if options.get("disable_cfg1_optimization", False):
            needed = Branches(True, True, True)
        if any(options.get(name) for name in _GUIDANCE_PATCHES):
            return self._predict_with_patches(needed.none, x, timestep, options)
        branches: Any = [
            self.conds["negative"] if needed.none else None,
            self.conds["middle"] if needed.image else None,
            self.conds["positive"] if needed.full else None,
        ]
        none, image, full = self._predict_branches(branches, x, timestep, options)
        return dual_guidance(
            none if needed.none else None,
            image if needed.image else None,
            full if needed.full else None,
            self.image_scale,
            self.text_scale,
        )

    def _predict_branches(
        self, branches: Any, x: Tensor, timestep: Tensor, options: dict[str, Any]
    ) -> list[Tensor]:
        """Predictions of (none, image, full). ComfyUI returns zeros for a branch of None."""
        transformer_options = {**options.get("transformer_options", {}), _KEY: True}
        options = {**options, "transformer_options": transformer_options}
        return comfy.samplers.calc_cond_batch(self.inner_model, branches, x, timestep, options)

    def _predict_with_patches(
        self, needs_none: bool, x: Tensor, timestep: Tensor, options: dict[str, Any]
    ) -> Tensor:
        """Eq. 3. The MODEL's functions compute ``image + s_T (full - image)``, as in KSampler.

        With that as the full prediction, Eq. 3 with s_T = 1 adds the rest.
        """
        conds: list[Any] = [self.conds["positive"], self.conds["middle"]]
        replace = options.get("sampler_calc_cond_batch_function")
        shared = {"conds": conds, "input": x, "sigma": timestep}
        shared |= {"model": self.inner_model, "model_options": options}
        branches: Any = [
            self.conds["negative"] if needs_none else None,
            *([None, None] if replace else reversed(conds)),
        ]
        none, image, full = self._predict_branches(branches, x, timestep, options)
        predictions = replace(shared) if replace else [full, image]
        for change in options.get("sampler_pre_cfg_function", []):
            more = {"conds_out": predictions, "cond_scale": self.text_scale, "timestep": timestep}
            predictions = change({**shared, **more})
        full, image = predictions
        guided = comfy.samplers.cfg_function(
            self.inner_model,
            full,
            image,
            self.text_scale,
            x,
            timestep,
            model_options=options,
            cond=conds[0],
            uncond=conds[1],
        )
        return dual_guidance(none, image, guided, self.image_scale, 1.0) if needs_none else guided

    def _warn_of_latent(self, noise: Tensor, latent_image: Tensor, sigmas: Tensor) -> None:
        sampling: Any = self.model_patcher.get_model_object("model_sampling")
        most = float(sampling.sigma_max)
        starts_late = len(sigmas) > 0 and float(sigmas[0]) < _FULL_NOISE * most
        if starts_late and torch.count_nonzero(noise) and not torch.count_nonzero(latent_image):
            logger.warning(
                "InstructBrush: Edit Guider: sampling starts below full noise (denoise is below 1), but from "
                "an empty latent, which gives gray images. Connect VAE Encode of the image as the latent."
            )


def with_image(conditioning: Conditioning, latent: Tensor, mask_latent: Tensor | None = None) -> Conditioning:
    """Adds image latents to every entry of a conditioning.

    Args:
        conditioning: the conditioning. It is not changed.
        latent: latents of the images, [B, C, h, w].
        mask_latent: latents of the masks, [B or 1, C, h, w], for models that read a mask.
    """
    return node_helpers.conditioning_set_values(
        conditioning, {"concat_latent_image": latent, MASK_LATENT: mask_latent}
    )


def _repeated(entry: dict[str, Any], count: int) -> dict[str, Any]:
    """An entry whose image latents are repeated to ``count``, in the order of Repeat Latent Batch."""
    entry = entry.copy()
    for name in _IMAGE_LATENTS:
        latents = entry.get(name)
        if latents is None or len(latents) in (1, count):
            continue
        if count % len(latents):
            raise InstructionError(
                f"Edit Guider: it has {len(latents)} images, but the sampler's latent has {count}. Connect "
                "the LATENT output of Edit Guider, or a latent that repeats it."
            )
        entry[name] = latents.repeat(count // len(latents), 1, 1, 1)
    return entry


def _with_two_kinds_of_branches(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Any = None,
    c_crossattn: Any = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Wraps a model call: other packs' patches know two kinds of branches, positive (0) and negative (1).

    Functions of the MODEL may call it on their own, as perturbed-attention guidance does. Such calls have two
    kinds already.
    """
    options = {**(transformer_options or {})}
    if options.pop(_KEY, False):
        options["cond_or_uncond"] = [int(branch != 2) for branch in options.get("cond_or_uncond", ())]
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
