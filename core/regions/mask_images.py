"""Masks as the images that mask-conditioned models read (UltraEdit)."""

import torch
from torch import Tensor

from ..errors import RegionError
from .masks import fit_mask, mask_batch

_DARKEST_GREY = 1 / 255


def mask_image(mask: Tensor | None, images: Tensor) -> Tensor:
    """The image that stands for a mask: white where the edit may act, black where it must not, grey between them.

    The models were trained on such images, put through the VAE like any other. All white means that the edit may act everywhere.

    Args:
        mask: what :func:`~.masks.mask_batch` takes, of the images' aspect ratio; None is white.
        images: the images to edit [B, H, W, C].

    Returns:
        [1 or B, H, W, 3] fp32 in 0..1; one where one stands for all.

    Raises:
        RegionError: a mask that is black all over; otherwise as :func:`~.masks.fit_mask`.
    """
    batch, height, width = images.shape[:3]
    mask = torch.ones(1, height, width) if mask is None else mask_batch(mask)
    single = len(mask) == 1
    fitted = fit_mask(mask, height, width, 1 if single else batch)
    for number, each in enumerate(fitted, 1):
        if each.max() < _DARKEST_GREY:
            which = "it is" if single else f"number {number} of {batch} is"
            raise RegionError(
                f"Mask: {which} black all over, so there is nowhere to edit. Paint white where the edit shall act, or invert the mask if it is the wrong way "
                "round. To edit everywhere, connect no mask."
            )
    return fitted[..., None].expand(-1, -1, -1, 3)
