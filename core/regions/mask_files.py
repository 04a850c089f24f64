"""Masks in image files: which channel holds the region."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import PairError, RegionError
from ..storage.image_files import open_image

_COLOURED = 8
"""Levels of 255 that the colours of a mask's pixel may lie apart: JPEG's rounding."""
_LIGHT = 247
"""Level of 255 from which a colour counts as white."""

Levels = np.ndarray[Any, np.dtype[np.float32]]
"""[H, W] in 0..1."""


def read_mask(file: Path | BinaryIO, name: str) -> Tensor:
    """The mask that an image file holds, see :func:`mask_from_image`.

    Args:
        file: where it is.
        name: what errors call it.

    Raises:
        RegionError: it cannot be read, or marks no region.
    """
    try:
        found = mask_from_image(open_image(file, name).image)
    except PairError as error:
        raise RegionError(f"Mask: {error}") from error
    if found is None:
        raise RegionError(
            f"Mask '{name}' is a coloured image without transparency, so it marks no region. A mask is white where the edit acts and black elsewhere, or the "
            "image with that part erased."
        )
    return found


def mask_from_image(image: Image.Image) -> Tensor | None:
    """A mask [H, W] in 0..1 from an image of one, 1 = edit here. The channel counts that holds a region:

    - Transparency that varies: what is transparent is edited, as ComfyUI's mask editor and MagicBrush save it. Where all that can be seen is white, the white
      was painted on nothing, and it is edited.
    - Otherwise grey colours that vary: white is edited. Levels of 0 and 1 alone are black and white.
    - Otherwise transparency, and then the one grey.

    Returns:
        None where colours without transparency say nothing about a region.
    """
    alpha, grey = _alpha(image), _grey(image)
    if alpha is not None and alpha.min() < alpha.max():
        visible = np.asarray(image.convert("RGBA"))[..., :3][alpha > 0]
        return torch.from_numpy(alpha if visible.min() >= _LIGHT else 1 - alpha)
    if alpha is not None and alpha.min() < 1 and (grey is None or grey.min() == grey.max()):
        return torch.from_numpy(1 - alpha)
    return None if grey is None else torch.from_numpy(grey)


def _alpha(image: Image.Image) -> Levels | None:
    """Opacity, None where there is none."""
    if not image.has_transparency_data:
        return None
    return np.divide(np.asarray(image.convert("RGBA"))[..., 3], 255, dtype=np.float32)


def _grey(image: Image.Image) -> Levels | None:
    """Brightness, None where the image is coloured."""
    colours = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"), dtype=np.float32)[
        ..., :3
    ]
    if (colours.max(-1) - colours.min(-1)).max() > _COLOURED:
        return None
    top = colours.max()
    return np.divide(colours[..., 0], 1 if top == 1 else 255, dtype=np.float32)
