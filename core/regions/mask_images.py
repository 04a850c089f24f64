"""Converts masks to the images that mask-conditioned models (UltraEdit) read."""

import torch
from torch import Tensor

from ..errors import RegionError
from .masks import DARKEST_GRAY, fit_mask, mask_batch


def mask_image(mask: Tensor | None, images: Tensor) -> Tensor:
    """Converts masks to images: white where the edit may act, black where it must not, gray between.

    The models were trained with the VAE's latents of such images. All white allows the edit everywhere.

    Args:
        mask: what ``mask_batch`` accepts, with the images' aspect ratio; None is white.
        images: the images to edit [B, H, W, C].

    Returns:
        [1 or B, H, W, 3] fp32 in 0..1; a single one if there is one mask for all images.

    Raises:
        RegionError: a mask is black everywhere; see also ``fit_mask``.
    """
    batch, height, width = images.shape[:3]
    mask = torch.ones(1, height, width) if mask is None else mask_batch(mask)
    single = len(mask) == 1
    fitted = fit_mask(mask, height, width, 1 if single else batch)
    for number, single_mask in enumerate(fitted, 1):
        if single_mask.max() < DARKEST_GRAY:
            which = "it is" if single else f"number {number} of {batch} is"
            raise RegionError(
                f"Mask: {which} black everywhere, so nothing would be edited. Paint white where the edit "
                "should act, or invert the mask. To edit everywhere, connect no mask."
            )
    return fitted[..., None].expand(-1, -1, -1, 3)
