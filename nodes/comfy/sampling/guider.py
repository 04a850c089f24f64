"""Eq. 3 as a GUIDER for SamplerCustomAdvanced."""

from typing import Any

import comfy.samplers
import comfy.sd
import node_helpers
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....core.diffusion.guidance import Branches, dual_guidance, needed_branches
from ..models.base_models import MASK_LATENT
from .instruction_patch import Conditioning


class EditGuider(comfy.samplers.CFGGuider):
    """Guides with three branches: image and instruction, image alone, neither.

    The branches have the names and the order of ComfyUI's DualCFGGuider, so patches for that guider work
    here. Branches whose coefficient is zero are not computed; as in that guider they are passed on as None,
    and the model option ``disable_cfg1_optimization`` switches this off.
    """

    def __init__(self, model: ModelPatcher, text_scale: float, image_scale: float) -> None:
        super().__init__(model)
        self.text_scale = text_scale
        self.image_scale = image_scale

    def set_branches(self, full: Conditioning, image: Conditioning, none: Conditioning) -> None:
        """Sets the conditionings of the three branches."""
        self.inner_set_conds({"positive": full, "middle": image, "negative": none})

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
        branches: Any = [
            self.conds["negative"] if needed.none else None,
            self.conds["middle"] if needed.image else None,
            self.conds["positive"] if needed.full else None,
        ]
        # ComfyUI returns zeros for a branch of None.
        none, image, full = comfy.samplers.calc_cond_batch(self.inner_model, branches, x, timestep, options)
        return dual_guidance(
            none if needed.none else None,
            image if needed.image else None,
            full if needed.full else None,
            self.image_scale,
            self.text_scale,
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
