"""Masks of regions: made of boxes, softened (UltraEdit, Eq. 2), fitted to images, and used to paste untouched pixels back.

A mask is fp32 [H, W] or [B, H, W] in 0..1: 1 is edited, 0 stays as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import RegionError
from ..storage.image_sizes import same_ratio, vae_crop

_ROUNDING = 1e-3
_COLOURED = 8 / 255
"""How far the colours of a grey image's pixel may lie apart: JPEG's rounding."""
_UNPAINTED = (64, 64)
"""Size of the black mask that ComfyUI's Load Image gives for an image without transparency."""

Bits = np.ndarray[Any, np.dtype[np.bool_]]
"""A mask of yes and no, [H, W]."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, half-open: ``left`` and ``top`` are in it, ``right`` and ``bottom`` are not."""

    left: float
    top: float
    right: float
    bottom: float

    def __str__(self) -> str:
        return f"({self.left:g}, {self.top:g}, {self.right:g}, {self.bottom:g})"


def check_boxes(boxes: Sequence[Box], width: int, height: int) -> None:
    """See that boxes can be used on an image.

    Raises:
        RegionError: a box is not finite, is empty, or leaves the image; its number counts from 1.
    """
    for number, box in enumerate(boxes, 1):
        where = f"Box {number} {box} (left, top, right, bottom) in an image of {width} x {height}"
        if not all(map(math.isfinite, (box.left, box.top, box.right, box.bottom))):
            raise RegionError(f"{where} is not finite. Give it four numbers in pixels.")
        if box.left >= box.right or box.top >= box.bottom:
            raise RegionError(
                f"{where} is empty. Its right must lie beyond its left, and its bottom beyond its top."
            )
        if box.left < 0 or box.top < 0 or box.right > width or box.bottom > height:
            raise RegionError(
                f"{where} leaves the image. Give pixels of this image: left and top from 0, right to {width}, bottom to {height}."
            )


def clip_boxes(boxes: Sequence[Box], width: int, height: int, slack: float = 0.05) -> list[Box]:
    """Cut off what detectors let stand over an image's border.

    Args:
        slack: how far a box may stand over, as a fraction of the image's side. One that stands over further, or does not touch the image, belongs to
            another one: it is left as it is, for :func:`check_boxes` to refuse.
    """
    clipped = []
    for box in boxes:
        inside = Box(max(box.left, 0), max(box.top, 0), min(box.right, width), min(box.bottom, height))
        over = (
            max(inside.left - box.left, box.right - inside.right) / width,
            max(inside.top - box.top, box.bottom - inside.bottom) / height,
        )
        touches = inside.left < inside.right and inside.top < inside.bottom
        clipped.append(inside if touches and max(over) <= slack else box)
    return clipped


def box_mask(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """The union of boxes as a mask [H, W]: 1 on every pixel that a box touches.

    Raises:
        RegionError: see :func:`check_boxes`.
    """
    check_boxes(boxes, width, height)
    mask = torch.zeros(height, width)
    for box in boxes:
        mask[math.floor(box.top) : math.ceil(box.bottom), math.floor(box.left) : math.ceil(box.right)] = 1
    return mask


def check_mask(mask: Tensor, name: str = "Mask") -> Tensor:
    """A mask as fp32 within 0..1, the same tensor where it is that already.

    Args:
        mask: [H, W] or [B, H, W]; a rounding error beyond 0..1 is cut off.
        name: what errors call it.

    Raises:
        RegionError: another shape, no mask at all, values that are not finite or not within 0..1.
    """
    if mask.ndim not in (2, 3):
        raise RegionError(
            f"{name}: its shape is {tuple(mask.shape)}, a mask has [height, width] or [batch, height, width]."
        )
    if not mask.numel():
        raise RegionError(
            f"{name}: there is none in it (its shape is {tuple(mask.shape)}). Perhaps nothing was found: connect a mask that holds a region."
        )
    mask = mask.float()
    low, high = mask.min().item(), mask.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise RegionError(
            f"{name} holds values that are not finite. Look at what makes it: a mask runs from 0 (stays) to 1 (is edited)."
        )
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise RegionError(
            f"{name} holds values from {low:g} to {high:g}. Scale them: a mask runs from 0 (stays) to 1 (is edited)."
        )
    return mask if low >= 0 and high <= 1 else mask.clamp(0, 1)


def mask_batch(mask: Tensor, name: str = "Mask") -> Tensor:
    """Whatever nodes give as MASK as fp32 [B, H, W] within 0..1, the same tensor where it is that already.

    Args:
        mask: [H, W], [B, H, W], [B, 1, H, W], [B, H, W, 1], or grey images [B, H, W, 3 or 4].
        name: what errors call it.

    Raises:
        RegionError: no mask, or a coloured image; otherwise as :func:`check_mask`.
    """
    if not isinstance(mask, Tensor):
        raise RegionError(f"{name}: a mask is needed, but {type(mask).__name__} came. Connect a MASK.")
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    elif mask.ndim == 4 and mask.shape[-1] in (1, 3, 4):
        colours = mask[..., :3].float()
        if colours.numel() and (colours.amax(-1) - colours.amin(-1)).max() > _COLOURED:
            raise RegionError(
                f"{name}: it is a coloured image. A mask is white where the edit acts and black elsewhere: connect a MASK."
            )
        mask = colours[..., 0]
    mask = check_mask(mask, name)
    return mask[None] if mask.ndim == 2 else mask


def is_unpainted(mask: Tensor) -> bool:
    """Whether masks [..., H, W] look like the black one of 64 x 64 that Load Image gives where none was painted."""
    return _sides(mask) == _UNPAINTED and not mask.any()


def bounding_box_mask(fine: Tensor, each_fragment: bool = False, threshold: float = 0.5) -> Tensor:
    """The box mask M_b of a fine mask's own extent, for when no boxes are at hand; empty where the fine mask is.

    Args:
        fine: [H, W] or [B, H, W].
        each_fragment: a box around each fragment instead of one around all.
        threshold: a pixel belongs to the fine mask if its value is above this.
    """
    if fine.ndim == 3:
        return torch.stack([bounding_box_mask(each, each_fragment, threshold) for each in fine])
    from scipy import ndimage
    from skimage import measure

    found = check_mask(fine).cpu().numpy() > threshold
    boxes = np.zeros(found.shape, dtype=np.float32)
    for extent in ndimage.find_objects(
        measure.label(found, connectivity=2) if each_fragment else found.astype(int)
    ):
        boxes[extent] = 1
    return torch.from_numpy(boxes).to(fine.device)


def soft_mask(fine: Tensor, box: Tensor, s: float) -> Tensor:
    """Eq. 2: M_s, which is ``s`` on M_b without M_f and M_f elsewhere.

    Where the fine mask is neither 0 nor 1 (a feathered edge), the larger of it and ``s`` counts inside the box, so that it falls off to ``s`` and not below.

    Args:
        fine: M_f, [H, W] or [B, H, W].
        box: M_b, of the same aspect ratio; one for all or one for each.
        s: 0..1, how much of the source is mixed in between both masks; the paper uses .2 to .8.

    Raises:
        RegionError: ``s`` out of range, or masks of different aspect ratios or counts.
    """
    if not 0 <= s <= 1:
        raise RegionError(f"Soft mask: s is {s}, it must lie between 0 and 1. UltraEdit uses 0.2 to 0.8.")
    fine, box = check_mask(fine, "Fine mask"), check_mask(box, "Box mask").to(fine.device)
    if not same_ratio(_sides(fine), _sides(box)):
        raise RegionError(
            f"Soft mask: the fine mask is {_size(fine)}, the box mask {_size(box)}. Make both as large as the image."
        )
    box = _scaled(box, *_sides(fine))
    counts = [len(each) if each.ndim == 3 else 1 for each in (fine, box)]
    if counts[0] != counts[1] and 1 not in counts:
        raise RegionError(
            f"Soft mask: {counts[0]} fine masks and {counts[1]} box masks. Give a box mask for each fine mask, or one for all."
        )
    return torch.maximum(fine, s * box)


def combine_masks(masks: Sequence[Tensor]) -> Tensor:
    """The union of masks of one aspect ratio, at the size of the first: the largest value counts. A single mask counts for a whole batch.

    Raises:
        RegionError: no masks, or different aspect ratios or counts.
    """
    if not masks:
        raise RegionError("Union of masks: there are none. Give at least one.")
    united = check_mask(masks[0], "Mask 1")
    for number, mask in enumerate(masks[1:], 2):
        mask = check_mask(mask, f"Mask {number}").to(united.device)
        if not same_ratio(_sides(united), _sides(mask)):
            raise RegionError(
                f"Union of masks: mask 1 is {_size(united)}, mask {number} is {_size(mask)}. Make all as large as the image."
            )
        mask = _scaled(mask, *_sides(united))
        counts = [len(each) if each.ndim == 3 else 1 for each in (united, mask)]
        if counts[0] != counts[1] and 1 not in counts:
            raise RegionError(
                f"Union of masks: mask {number} is a batch of {counts[1]}, those before it of {counts[0]}. Give as many of each, or one."
            )
        united = torch.maximum(united, mask)
    return united


def fit_mask(mask: Tensor, height: int, width: int, batch: int) -> Tensor:
    """A mask at an image's size, as many as there are images.

    Args:
        mask: what :func:`mask_batch` takes, of the same aspect ratio but for rounding: it is scaled, never stretched.
        height: of the image, in pixels.
        width: of the image, in pixels.
        batch: number of images; a single mask is repeated.

    Returns:
        [batch, height, width], the same values where nothing had to be done.

    Raises:
        RegionError: another aspect ratio, another number of masks, or the black mask of Load Image, where the image is of another size.
    """
    mask = mask_batch(mask)
    if len(mask) not in (1, batch):
        raise RegionError(
            f"Mask: {len(mask)} masks do not fit {batch} images. Give one for each image, or one for all."
        )
    rows, columns = _sides(mask)
    if (rows, columns) != (height, width):
        if is_unpainted(mask):
            raise RegionError(
                f"Mask: no mask was painted. It is the black one of {columns} x {rows} that Load Image gives for an image without transparency; this image "
                f"is {width} x {height}. Paint one (right-click Load Image, Open in MaskEditor), or connect another mask."
            )
        if not same_ratio((rows, columns), (height, width)):
            raise RegionError(
                f"Mask: it is {columns} x {rows}, the image {width} x {height}, which is another aspect ratio. Make the mask for this image, or crop it as "
                "the image was cropped."
            )
        mask = _scaled(mask, height, width)
    return mask if len(mask) == batch else mask.expand(batch, -1, -1)


def paste_back(edited: Tensor, original: Tensor, mask: Tensor, feather: int = 0) -> Tensor:
    """Edited images with the original's own pixels outside the mask.

    Where the mask is 0 the result is the original and where it is 1 the edit, both bit for bit; between them it is their mixture. Edits that lost an edge
    of less than 8 pixels in the VAE go back to where they were cut from (see :func:`vae_crop`), and the lost edge stays the original.

    Args:
        edited: [B, h, w, 3].
        original: [B, H, W, 3 or 4], or one for all. A fourth channel stays as it is everywhere.
        mask: what :func:`mask_batch` takes, of the original's aspect ratio or as large as the edit.
        feather: pixels over which the mask rises from its border inwards. Outside nothing changes, whatever it is.

    Raises:
        RegionError: sizes or counts that do not fit.
    """
    for name, images, channels in (("edited", edited, (3,)), ("original", original, (3, 4))):
        if images.ndim != 4 or images.shape[-1] not in channels:
            wanted = " or ".join(map(str, channels))
            raise RegionError(
                f"Paste back: the {name} images have the shape {tuple(images.shape)}, they must have [batch, height, width, {wanted}]."
            )
    if feather < 0:
        raise RegionError(f"Paste back: feather is {feather}, it must be 0 or more pixels.")
    (batch, rows, columns, _), (height, width) = edited.shape, original.shape[1:3]
    if len(original) not in (1, batch):
        raise RegionError(
            f"Paste back: {batch} edited images but {len(original)} originals. Give the original of each, or one for all."
        )
    top, left, cropped_height, cropped_width = vae_crop(height, width)
    if (rows, columns) == (height, width):
        top, left = 0, 0
    elif (rows, columns) != (cropped_height, cropped_width):
        raise RegionError(
            f"Paste back: the edited image is {columns} x {rows}, the original {width} x {height}. They must be of one size (sides cropped to multiples of 8 "
            "are put back): scale one to the other first."
        )
    inside = (slice(None), slice(top, top + rows), slice(left, left + columns))
    mask = mask_batch(mask).to(original.device)
    of_edit = _sides(mask) == (rows, columns)
    # Where the edit has no pixels the mask is 0, so that feathering begins there.
    weight = torch.zeros(batch, height, width, device=mask.device)
    weight[inside] = (
        fit_mask(mask, rows, columns, batch) if of_edit else fit_mask(mask, height, width, batch)[inside]
    )
    weight = _feathered_inwards(weight, feather)[inside][..., None]
    pasted = original.float().repeat(batch // len(original), 1, 1, 1)
    window = pasted[inside][..., :3]
    # By where: nothing of an edit, not even what is not finite, reaches the outside.
    window.copy_(torch.where(weight > 0, torch.lerp(window, edited.to(window), weight), window))
    return pasted


def depths(found: Bits) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Distance in pixels of every pixel to the nearest that is not in a mask: 0 outside, 1 along its edge, infinite if it fills the image. The image's
    border is no edge."""
    from scipy import ndimage

    return np.full(found.shape, np.inf) if found.all() else np.asarray(ndimage.distance_transform_edt(found))


def _feathered_inwards(masks: Tensor, feather: int) -> Tensor:
    if not feather:
        return masks
    rises = [
        torch.from_numpy(depths((each > 0).cpu().numpy()) / (feather + 1)).to(each).clamp(max=1)
        for each in masks
    ]
    return masks * torch.stack(rises)


def _scaled(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask at another size; the same tensor where it has it."""
    if _sides(mask) == (height, width):
        return mask
    batch = mask.reshape(-1, 1, *mask.shape[-2:])
    return (
        functional.interpolate(batch, (height, width), mode="bilinear", antialias=True)
        .clamp(0, 1)
        .reshape(*mask.shape[:-2], height, width)
    )


def _sides(mask: Tensor) -> tuple[int, int]:
    return mask.shape[-2], mask.shape[-1]


def _size(mask: Tensor) -> str:
    return f"{mask.shape[-1]} x {mask.shape[-2]}"
