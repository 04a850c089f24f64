"""Reads masks from image files, and decides which channel holds the region."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import PairError, RegionError
from ..storage.image_files import open_image

# How much the channels of a gray pixel may differ in 0..255, because of JPEG's rounding.
_COLORED = 8
# Smallest level in 0..255 that counts as white.
_WHITE = 247

Levels = np.ndarray[Any, np.dtype[np.float32]]
"""[H, W] in 0..1."""


def read_mask(file: Path | BinaryIO, name: str) -> Tensor:
    """Reads a mask [H, W] from an image file. See ``mask_from_image``.

    Args:
        file: a path, or bytes in memory.
        name: what error messages call the file.

    Raises:
        RegionError: the file cannot be read, or marks no region.
    """
    try:
        mask = mask_from_image(open_image(file, name).image)
    except PairError as error:
        raise RegionError(f"Mask: {error}") from error
    if mask is None:
        raise RegionError(
            f"Mask '{name}' is a colored image without transparency, so it marks no region. A mask is white "
            "where the edit acts and black elsewhere, or the image with that part erased."
        )
    return mask


def mask_from_image(image: Image.Image) -> Tensor | None:
    """Converts an image to a mask [H, W] in 0..1, where 1 is edited. The first rule that applies counts:

    - Alpha varies: transparent pixels are edited, as ComfyUI's mask editor and MagicBrush save masks. But if
      all visible pixels are white, they were painted on an empty image, and the visible pixels are edited.
    - Gray levels vary: white is edited. If there are only levels 0 and 1, they are black and white.
    - Alpha is constant and not opaque: transparent is edited.
    - The image has a single gray level: it is the mask's value.

    Returns:
        The mask, or None for an opaque image with colors.
    """
    alpha = _alpha(image)
    gray = _gray(image)
    if alpha is not None and alpha.min() < alpha.max():
        visible = np.asarray(image.convert("RGBA"))[..., :3][alpha > 0]
        return torch.from_numpy(alpha if visible.min() >= _WHITE else 1 - alpha)
    if alpha is not None and alpha.min() < 1 and (gray is None or gray.min() == gray.max()):
        return torch.from_numpy(1 - alpha)
    return None if gray is None else torch.from_numpy(gray)


def _alpha(image: Image.Image) -> Levels | None:
    """Returns the opacity, or None without an alpha channel."""
    if not image.has_transparency_data:
        return None
    return np.divide(np.asarray(image.convert("RGBA"))[..., 3], 255, dtype=np.float32)


def _gray(image: Image.Image) -> Levels | None:
    """Returns the brightness, or None if the image has colors."""
    converted = image.convert("RGBA" if image.has_transparency_data else "RGB")
    colors = np.asarray(converted, dtype=np.float32)[..., :3]
    if (colors.max(-1) - colors.min(-1)).max() > _COLORED:
        return None
    top = colors.max()
    return np.divide(colors[..., 0], 1 if top == 1 else 255, dtype=np.float32)
