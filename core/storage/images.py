"""Images as tensors and as files: [H, W, 3] fp32 in 0..1 here, PIL images there."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..errors import InstructBrushError
from .files import replacing
from .image_sizes import scaled

_MOST_CHANNELS = 16
"""A last axis of more is no channels."""
_BRIGHTEST = 16
"""Highlights reach beyond 1; values beyond this are those of 0 to 255."""


def to_image(image: Tensor) -> Image.Image:
    """[H, W, 3] in 0..1 as a PIL image; values outside are clipped."""
    return Image.fromarray((image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def from_image(image: Image.Image) -> Tensor:
    """A PIL image as [H, W, 3] in 0..1."""
    return (
        torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).float().div_(255)
    )


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image as RGB on white; the same image when it is RGB."""
    if image.mode == "RGB":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def image_batch(images: object, name: str, error: type[InstructBrushError] = InstructBrushError) -> Tensor:
    """Whatever nodes give as IMAGE as [B, H, W, 3 or 4], the same tensor where it is that already.

    Args:
        images: [B, H, W, C] or [H, W, C]. One channel is grey and becomes three; of more than four the first four count.
        name: what errors call it.
        error: what to raise.

    Raises:
        InstructBrushError: no images, another shape, or values that are not finite or belong to another range. It is one of ``error``.
    """
    if not isinstance(images, Tensor):
        raise error(f"{name}: images are needed, but {type(images).__name__} came. Connect an IMAGE.")
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[-1] not in (1, *range(3, _MOST_CHANNELS)) or not batch.numel():
        raise error(
            f"{name}: its shape is {tuple(images.shape)}, images have [batch, height, width, 3]. Connect an IMAGE with at least one image."
        )
    for number, each in enumerate(batch, 1):
        if not torch.isfinite(each).all():
            raise error(
                f"{name}: image {number} of {len(batch)} holds values that are not finite. Look at what makes it: values run from 0 to 1."
            )
        if each.max() > _BRIGHTEST:
            raise error(
                f"{name}: image {number} of {len(batch)} holds values up to {each.max():g}. Scale them: values run from 0 to 1."
            )
    return batch.expand(-1, -1, -1, 3) if batch.shape[-1] == 1 else batch[..., :4]


def fit_to_multiple(image: Tensor, multiple: int = 8) -> Tensor:
    """Scale [H, W, 3] so that both sides are multiples of ``multiple``; the same tensor when they are."""
    height, width = (max(round(side / multiple), 1) * multiple for side in image.shape[:2])
    return scaled(image, (height, width))


def save_image(image: Image.Image, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Write an image as PNG, with texts in its header where there are any.

    Raises:
        StorageError: as :func:`.files.replacing`.
    """
    header = PngImagePlugin.PngInfo()
    for key, text in (texts or {}).items():
        header.add_text(key, text)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=header)
