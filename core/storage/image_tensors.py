"""Images as tensors [H, W, 3] fp32 in 0..1: conversion from and to PIL, and checks of what nodes pass on."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InstructBrushError
from .image_sizes import scaled

# A last axis longer than this does not hold channels.
_MOST_CHANNELS = 16
# Highlights may exceed 1; values above this come from the range 0..255.
_BRIGHTEST = 16


def to_image(image: Tensor) -> Image.Image:
    """Converts [H, W, 3] in 0..1 to a PIL image. Values outside are clipped."""
    return Image.fromarray((image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def from_image(image: Image.Image) -> Tensor:
    """Converts a PIL image to [H, W, 3] in 0..1."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return torch.from_numpy(np.array(rgb)).float().div_(255)


def on_white(image: Image.Image) -> Image.Image:
    """Pastes an RGBA image on white. Returns an RGB image unchanged."""
    if image.mode == "RGB":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def image_batch(images: object, name: str, error: type[InstructBrushError] = InstructBrushError) -> Tensor:
    """Checks a node's IMAGE input and returns it as [B, H, W, 3 or 4], without a copy where possible.

    Args:
        images: [B, H, W, C] or [H, W, C]. A gray channel is repeated three times; of more than four channels
            the first four are kept.
        name: what error messages call the images.
        error: class of the errors.

    Raises:
        InstructBrushError: an ``error``, if there are no images, or if shape or value range are wrong.
    """
    if not isinstance(images, Tensor):
        raise error(f"{name}: images are needed, not {type(images).__name__}. Connect an IMAGE.")
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[-1] not in (1, *range(3, _MOST_CHANNELS)) or not batch.numel():
        raise error(
            f"{name}: its shape is {tuple(images.shape)}, images have [batch, height, width, 3]. "
            "Connect an IMAGE with at least one image."
        )
    for number, image in enumerate(batch, 1):
        if not torch.isfinite(image).all():
            raise error(
                f"{name}: image {number} of {len(batch)} holds values that are not finite. "
                "Check the node that made it: values run from 0 to 1."
            )
        if image.max() > _BRIGHTEST:
            raise error(
                f"{name}: image {number} of {len(batch)} holds values up to {image.max():g}. "
                "Scale them: values run from 0 to 1."
            )
    return batch.expand(-1, -1, -1, 3) if batch.shape[-1] == 1 else batch[..., :4]


def fit_to_multiple(image: Tensor, multiple: int = 8) -> Tensor:
    """Scales [H, W, 3] so that both sides are multiples of ``multiple``. Returns the same tensor if so."""
    height, width = image.shape[:2]
    return scaled(image, (_nearest_multiple(height, multiple), _nearest_multiple(width, multiple)))


def _nearest_multiple(side: int, multiple: int) -> int:
    return max(round(side / multiple), 1) * multiple
