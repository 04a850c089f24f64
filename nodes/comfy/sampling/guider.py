"""Eq. 3 as a GUIDER for SamplerCustomAdvanced."""

from typing import Any

import comfy.samplers
import comfy.sd
import node_helpers
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....core.diffusion.guidance import dual_guidance
from ..models.base_models import MASK_LATENT
from .instruction_patch import Conditioning


class EditGuider(comfy.samplers.CFGGuider):
    """Guides with three branches: image and instruction, image alone, neither.

    The branches have the names and the order that ComfyUI's DualCFGGuider gives them, so what acts on its branches acts on these.
    """

    def __init__(self, model: ModelPatcher, text_scale: float, image_scale: float) -> None:
        super().__init__(model)
        self.text_scale = text_scale
        self.image_scale = image_scale

    def set_branches(self, full: Conditioning, image: Conditioning, none: Conditioning) -> None:
        """Set the conditionings of the three branches."""
        self.inner_set_conds({"positive": full, "middle": image, "negative": none})

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The guided prediction (of the clean latent: Eq. 3's coefficients sum to one, so it is the same)."""
        branches = [self.conds["negative"], self.conds["middle"], self.conds["positive"]]
        none, image, full = comfy.samplers.calc_cond_batch(
            self.inner_model, branches, x, timestep, model_options or {}
        )
        return dual_guidance(none, image, full, self.image_scale, self.text_scale)


def with_image(conditioning: Conditioning, latent: Tensor, mask_latent: Tensor | None = None) -> Conditioning:
    """A conditioning whose entries carry the image's latent [B, C, h, w] and, for a model that reads one, the mask's [B or 1, C, h, w]."""
    return node_helpers.conditioning_set_values(
        conditioning, {"concat_latent_image": latent, MASK_LATENT: mask_latent}
    )
