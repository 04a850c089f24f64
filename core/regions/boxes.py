"""Boxes in pixels, and masks made from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import RegionError
from .masks import check_mask


@dataclass(frozen=True)
class Box:
    """A half-open rectangle in pixels: it contains ``left`` and ``top``, but not ``right`` and ``bottom``."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """In pixels."""
        return (self.right - self.left) * (self.bottom - self.top)

    def __str__(self) -> str:
        return f"({self.left:g}, {self.top:g}, {self.right:g}, {self.bottom:g})"


def check_boxes(boxes: Sequence[Box], width: int, height: int) -> None:
    """Checks that boxes lie in an image.

    Raises:
        RegionError: a box is not finite, is empty, or leaves the image. The message counts boxes from 1.
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
                f"{where} leaves the image. "
                f"Give pixels of this image: left and top from 0, right to {width}, bottom to {height}."
            )


def clip_boxes(boxes: Sequence[Box], width: int, height: int, slack: float = 0.05) -> list[Box]:
    """Clips boxes that extend slightly beyond the image's border, as those of detectors do.

    Args:
        boxes: boxes in pixels.
        width: width of the image in pixels.
        height: height of the image in pixels.
        slack: how far a box may extend beyond the border, as a fraction of the image's side. A box that
            extends further or lies outside belongs to another image: it is returned unchanged, and
            ``check_boxes`` rejects it.
    """
    clipped = []
    for box in boxes:
        inside = Box(max(box.left, 0), max(box.top, 0), min(box.right, width), min(box.bottom, height))
        excess = max(
            max(inside.left - box.left, box.right - inside.right) / width,
            max(inside.top - box.top, box.bottom - inside.bottom) / height,
        )
        touches = inside.left < inside.right and inside.top < inside.bottom
        clipped.append(inside if touches and excess <= slack else box)
    return clipped


def box_mask(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """Returns the union of boxes as a mask [H, W]: 1 on every pixel that a box touches.

    Raises:
        RegionError: see ``check_boxes``.
    """
    check_boxes(boxes, width, height)
    mask = torch.zeros(height, width)
    for box in boxes:
        mask[math.floor(box.top) : math.ceil(box.bottom), math.floor(box.left) : math.ceil(box.right)] = 1
    return mask


def bounding_box_mask(fine: Tensor, each_fragment: bool = False, threshold: float = 0.5) -> Tensor:
    """Returns the box mask M_b from the extent of a fine mask. It is empty where the fine mask is empty.

    Args:
        fine: [H, W] or [B, H, W].
        each_fragment: draws a box around each fragment instead of one around all.
        threshold: pixels with a value above this belong to the fine mask.
    """
    if fine.ndim == 3:
        return torch.stack([bounding_box_mask(mask, each_fragment, threshold) for mask in fine])
    from scipy import ndimage
    from skimage import measure

    inside = check_mask(fine).cpu().numpy() > threshold
    labels = measure.label(inside, connectivity=2) if each_fragment else inside.astype(int)
    boxes = np.zeros(inside.shape, dtype=np.float32)
    for extent in ndimage.find_objects(labels):
        boxes[extent] = 1
    return torch.from_numpy(boxes).to(fine.device)
