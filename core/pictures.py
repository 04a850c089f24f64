"""Pictures as tensors and as files: [H, W, 3] fp32 in 0..1 here, PIL images there."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from .files import replacing
from .shapes import scaled


def to_image(picture: Tensor) -> Image.Image:
    """[H, W, 3] in 0..1 as a PIL image; values outside are clipped."""
    return Image.fromarray((picture.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def from_image(image: Image.Image) -> Tensor:
    """A PIL image as [H, W, 3] in 0..1."""
    return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).float().div_(255)


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image as RGB on white; the same image when it is RGB."""
    if image.mode == "RGB":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def fit_to_multiple(picture: Tensor, multiple: int = 8) -> Tensor:
    """Scale [H, W, 3] so that both sides are multiples of ``multiple``; the same tensor when they are."""
    height, width = (max(round(side / multiple), 1) * multiple for side in picture.shape[:2])
    return scaled(picture, (height, width))


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
