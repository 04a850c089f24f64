"""Masks of regions: checks, soft masks (UltraEdit, Eq. 2), unions, and scaling to images.

A mask is fp32 [H, W] or [B, H, W] in 0..1: 1 is edited, 0 stays unchanged.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import RegionError
from ..storage.image_sizes import Size, same_ratio

DARKEST_GRAY = 1 / 255
"""A mask without a pixel as bright as this is black."""
_ROUNDING = 1e-3
# How much the channels of a gray pixel may differ, because of JPEG's rounding.
_COLORED = 8 / 255
# Size of the black mask that ComfyUI's Load Image returns for an image without transparency.
_UNPAINTED = (64, 64)

BoolMask = np.ndarray[Any, np.dtype[np.bool_]]
"""A mask of booleans, [H, W]."""


def check_mask(mask: Tensor, name: str = "Mask") -> Tensor:
    """Checks a mask and returns it as fp32 within 0..1, without a copy where possible.

    Args:
        mask: [H, W] or [B, H, W]. Rounding errors beyond 0..1 are clipped.
        name: what error messages call the mask.

    Raises:
        RegionError: the mask has another shape, is empty, or has values that are not finite or not in 0..1.
    """
    if mask.ndim not in (2, 3):
        raise RegionError(
            f"{name}: its shape is {tuple(mask.shape)}, a mask has [height, width] or [batch, height, width]."
        )
    if not mask.numel():
        raise RegionError(
            f"{name}: it holds no mask (its shape is {tuple(mask.shape)}). "
            "Perhaps nothing was found: connect a mask that holds a region."
        )
    mask = mask.float()
    low = mask.min().item()
    high = mask.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise RegionError(
            f"{name} holds values that are not finite. "
            "Check the node that made it: a mask runs from 0 (stays) to 1 (is edited)."
        )
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise RegionError(
            f"{name} holds values from {low:g} to {high:g}. "
            "Scale them: a mask runs from 0 (stays) to 1 (is edited)."
        )
    return mask if low >= 0 and high <= 1 else mask.clamp(0, 1)


def mask_batch(mask: Tensor, name: str = "Mask") -> Tensor:
    """Checks a node's MASK input and returns it as fp32 [B, H, W] within 0..1, without a copy where possible.

    Args:
        mask: [H, W], [B, H, W], [B, 1, H, W], [B, H, W, 1], or gray images [B, H, W, 3 or 4].
        name: what error messages call the mask.

    Raises:
        RegionError: not a mask, or an image with colors; see also ``check_mask``.
    """
    if not isinstance(mask, Tensor):
        raise RegionError(f"{name}: a mask is needed, not {type(mask).__name__}. Connect a MASK.")
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    elif mask.ndim == 4 and mask.shape[-1] in (1, 3, 4):
        colors = mask[..., :3].float()
        if colors.numel() and (colors.amax(-1) - colors.amin(-1)).max() > _COLORED:
            raise RegionError(
                f"{name}: it is a colored image. "
                "A mask is white where the edit acts and black elsewhere: connect a MASK."
            )
        mask = colors[..., 0]
    mask = check_mask(mask, name)
    return mask[None] if mask.ndim == 2 else mask


def is_unpainted(mask: Tensor) -> bool:
    """Whether masks [..., H, W] look like the black one of 64 x 64 that Load Image returns by default."""
    return mask_size(mask) == _UNPAINTED and not mask.any()


def soft_mask(fine: Tensor, box: Tensor, s: float) -> Tensor:
    """Eq. 2: M_s, which is ``s`` on M_b without M_f, and M_f elsewhere.

    Inside the box, a feathered edge of the fine mask falls off to ``s``: the larger value counts.

    Args:
        fine: M_f, [H, W] or [B, H, W].
        box: M_b with the same aspect ratio; one for all or one for each.
        s: 0..1, the mask's value between both masks; the paper uses .2 to .8.

    Raises:
        RegionError: ``s`` is out of range, or aspect ratios or numbers of masks differ.
    """
    if not 0 <= s <= 1:
        raise RegionError(f"Soft mask: s is {s}; it must lie between 0 and 1. UltraEdit uses 0.2 to 0.8.")
    fine = check_mask(fine, "Fine mask")
    box = check_mask(box, "Box mask").to(fine.device)
    if not same_ratio(mask_size(fine), mask_size(box)):
        raise RegionError(
            f"Soft mask: the fine mask is {_size_text(fine)}, the box mask {_size_text(box)}. "
            "Make both as large as the image."
        )
    box = _scaled(box, *mask_size(fine))
    if not _counts_match(fine, box):
        raise RegionError(
            f"Soft mask: {_count(fine)} fine masks and {_count(box)} box masks. "
            "Give a box mask for each fine mask, or one for all."
        )
    return torch.maximum(fine, s * box)


def combine_masks(masks: Sequence[Tensor]) -> Tensor:
    """Returns the union (maximum) of masks with one aspect ratio, at the size of the first.

    A single mask is combined with every mask of a batch.

    Raises:
        RegionError: there are no masks, or aspect ratios or numbers of masks differ.
    """
    if not masks:
        raise RegionError("Union of masks: no masks were given. Give at least one.")
    union = check_mask(masks[0], "Mask 1")
    for number, mask in enumerate(masks[1:], 2):
        mask = check_mask(mask, f"Mask {number}").to(union.device)
        if not same_ratio(mask_size(union), mask_size(mask)):
            raise RegionError(
                f"Union of masks: mask 1 is {_size_text(union)}, mask {number} is {_size_text(mask)}. "
                "Make all as large as the image."
            )
        mask = _scaled(mask, *mask_size(union))
        if not _counts_match(union, mask):
            raise RegionError(
                f"Union of masks: mask {number} is a batch of {_count(mask)}, those before it of "
                f"{_count(union)}. Give the same number in each batch, or one mask."
            )
        union = torch.maximum(union, mask)
    return union


def fit_mask(mask: Tensor, height: int, width: int, batch: int) -> Tensor:
    """Scales masks to the size of images, one for each image.

    Args:
        mask: what ``mask_batch`` accepts. Its aspect ratio must match the image's up to rounding.
        height: height of the images in pixels.
        width: width of the images in pixels.
        batch: number of images. A single mask is repeated.

    Returns:
        [batch, height, width]; the same values if nothing needs to be scaled.

    Raises:
        RegionError: aspect ratio or number of masks differ, or the mask is Load Image's default mask.
    """
    mask = mask_batch(mask)
    if len(mask) not in (1, batch):
        raise RegionError(
            f"Mask: {len(mask)} masks do not fit {batch} images. Give one for each image, or one for all."
        )
    rows, columns = mask_size(mask)
    if (rows, columns) != (height, width):
        if is_unpainted(mask):
            raise RegionError(
                f"Mask: no mask was painted. It is the black one of {columns} x {rows} that Load Image gives "
                f"for an image without transparency; this image is {width} x {height}. "
                "Paint one (right-click Load Image, Open in MaskEditor), or connect another mask."
            )
        if not same_ratio((rows, columns), (height, width)):
            raise RegionError(
                f"Mask: it is {columns} x {rows}, the image {width} x {height}, which is another aspect "
                "ratio. Make the mask for this image, or crop it as the image was cropped."
            )
        mask = _scaled(mask, height, width)
    return mask if len(mask) == batch else mask.expand(batch, -1, -1)


def mask_size(mask: Tensor) -> Size:
    """Returns height and width of masks [..., H, W]."""
    return mask.shape[-2], mask.shape[-1]


def distances_to_edge(mask: BoolMask) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns the distance in pixels from every pixel to the nearest pixel outside a mask.

    It is 0 outside, 1 along the mask's edge, and infinite if the mask fills the image. The image's border
    does not count as an edge.
    """
    from scipy import ndimage

    return np.full(mask.shape, np.inf) if mask.all() else np.asarray(ndimage.distance_transform_edt(mask))


def _scaled(mask: Tensor, height: int, width: int) -> Tensor:
    if mask_size(mask) == (height, width):
        return mask
    batch = mask.reshape(-1, 1, *mask.shape[-2:])
    resized = functional.interpolate(batch, (height, width), mode="bilinear", antialias=True)
    return resized.clamp(0, 1).reshape(*mask.shape[:-2], height, width)


def _count(mask: Tensor) -> int:
    return len(mask) if mask.ndim == 3 else 1


def _counts_match(first: Tensor, second: Tensor) -> bool:
    return _count(first) == _count(second) or 1 in (_count(first), _count(second))


def _size_text(mask: Tensor) -> str:
    return f"{mask.shape[-1]} x {mask.shape[-2]}"
