"""ComfyUI model classes of editing models. They define what is concatenated to the noisy latent.

A CONDITIONING carries the image's latent as ``concat_latent_image``, as is usual in ComfyUI, and the mask's
latent as ``MASK_LATENT``. One that carries neither is the null branch of Eq. 3, with zeros for both, as in
UltraEdit's pipelines.
"""

from typing import Any

import torch
from comfy import model_base

from ....core.errors import ModelError

MASK_LATENT = "instructbrush_mask_latent"
"""Key of a mask's latent in a CONDITIONING, [1 or B, C, h, w], unscaled."""

_IMAGE = "concat_latent_image"


class InstructPix2Pix(model_base.IP2P, model_base.BaseModel):
    """A UNet that takes the unscaled image latent after the noisy one, or zeros without an image."""

    def process_ip2p_image_in(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the image condition unscaled."""
        return image


class UltraEdit(model_base.IP2P, model_base.SD3):
    """Stable Diffusion 3 with the unscaled image latent after the noisy one."""

    def process_ip2p_image_in(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the image condition unscaled."""
        return image

    def concat_cond(self, **kwargs: Any) -> torch.Tensor:
        """Returns what follows the noisy latent.

        Raises:
            ModelError: the positive CONDITIONING carries no image.
        """
        _require_image(kwargs)
        return super().concat_cond(**kwargs)


class _ReadsMask(model_base.IP2P):
    """Adds the mask's latent after the image's."""

    def concat_cond(self, **kwargs: Any) -> torch.Tensor:
        """Returns what follows the noisy latent.

        Raises:
            ModelError: the positive CONDITIONING carries no image, or an image comes without a mask.
        """
        _require_image(kwargs)
        mask = kwargs.get(MASK_LATENT)
        if mask is None and kwargs.get(_IMAGE) is not None:
            raise ModelError(
                "This model reads a mask, and the CONDITIONING carries an image without a mask. Use Region "
                "Conditioning instead of InstructPixToPixConditioning; with no mask connected it lets the "
                "model edit everywhere."
            )
        image = super().concat_cond(**kwargs)
        if mask is None:
            return torch.cat([image, torch.zeros_like(image)], dim=1)
        return torch.cat([image, super().concat_cond(**{**kwargs, _IMAGE: mask})], dim=1)


class RegionInstructPix2Pix(_ReadsMask, InstructPix2Pix):
    """SD1.5 and SD2.1 models that read a mask (UltraEdit)."""


class RegionSDXL(_ReadsMask, model_base.SDXL_instructpix2pix):
    """SDXL models that read a mask (UltraEdit)."""


class RegionUltraEdit(_ReadsMask, UltraEdit):
    """Stable Diffusion 3 models that read a mask (UltraEdit)."""


def _require_image(carried: dict[str, Any]) -> None:
    # Only null branches may lack an image.
    if carried.get(_IMAGE) is None and carried.get("prompt_type") == "positive":
        raise ModelError(
            "This model edits images, and the positive CONDITIONING carries no image. Put Region "
            "Conditioning between the words and the sampler, or use Edit Guider."
        )
