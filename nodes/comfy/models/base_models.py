"""Editing models as ComfyUI runs them: what is concatenated to the noisy latent.

A CONDITIONING carries the image's latent as ``concat_latent_image``, like any other in ComfyUI, and the mask's under :data:`MASK_LATENT`. One that carries
neither is the null branch of Eq. 3: zeros for both, as in UltraEdit's pipelines.
"""

from typing import Any

import torch
from comfy import model_base

from ....core.errors import ModelError

MASK_LATENT = "instructbrush_mask_latent"
"""Where a CONDITIONING carries the latent of a mask, [1 or B, C, h, w], unscaled."""

_IMAGE = "concat_latent_image"


class InstructPix2Pix(model_base.IP2P, model_base.BaseModel):
    """A UNet that takes the unscaled image latent after the noisy one; no image is the zero latent."""

    def process_ip2p_image_in(self, image: torch.Tensor) -> torch.Tensor:
        """The image condition as the UNet takes it: unchanged."""
        return image


class UltraEdit(model_base.IP2P, model_base.SD3):
    """Stable Diffusion 3 with the unscaled image latent after the noisy one."""

    def process_ip2p_image_in(self, image: torch.Tensor) -> torch.Tensor:
        """The image condition as the transformer takes it: unchanged."""
        return image

    def concat_cond(self, **kwargs: Any) -> torch.Tensor:
        """What comes after the noisy latent.

        Raises:
            ModelError: the positive CONDITIONING carries no image.
        """
        _require_image(kwargs)
        return super().concat_cond(**kwargs)


class _ReadsMask(model_base.IP2P):
    """The mask's latent after the image's."""

    def concat_cond(self, **kwargs: Any) -> torch.Tensor:
        """What comes after the noisy latent.

        Raises:
            ModelError: the positive CONDITIONING carries no image, or an image comes without a mask.
        """
        _require_image(kwargs)
        mask = kwargs.get(MASK_LATENT)
        if mask is None and kwargs.get(_IMAGE) is not None:
            raise ModelError(
                "This model reads a mask, and the CONDITIONING carries an image without one. Use Region Conditioning instead of InstructPixToPixConditioning; "
                "with no mask connected it lets the model edit everywhere."
            )
        image = super().concat_cond(**kwargs)
        if mask is None:
            return torch.cat([image, torch.zeros_like(image)], dim=1)
        return torch.cat([image, super().concat_cond(**{**kwargs, _IMAGE: mask})], dim=1)


class RegionInstructPix2Pix(_ReadsMask, InstructPix2Pix):
    """The same with the latent of a mask after the image's (UltraEdit)."""


class RegionSDXL(_ReadsMask, model_base.SDXL_instructpix2pix):
    """The same on SDXL."""


class RegionUltraEdit(_ReadsMask, UltraEdit):
    """The same on Stable Diffusion 3."""


def _require_image(carried: dict[str, Any]) -> None:
    # Only the null branches may come without.
    if carried.get(_IMAGE) is None and carried.get("prompt_type") == "positive":
        raise ModelError(
            "This model edits images, and the positive CONDITIONING carries none. Put Region Conditioning between the words and the sampler, or use "
            "Edit Guider."
        )
