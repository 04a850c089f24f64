"""Picture files as people have them, read as tensors."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import PairError

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
MAX_PIXELS = 64 * 2**20


def read_picture(path: Path, size: int | None = None) -> Tensor:
    """A picture as [H, W, 3] fp32 in 0..1: turned upright, transparency on white, 16 bit and CMYK converted.

    Raises:
        PairError: unreadable, or more than 64 megapixels.
    """
    return decode_picture(path, path.name, size)


def decode_picture(file: Path | BinaryIO, name: str, size: int | None = None) -> Tensor:
    """As :func:`read_picture`, also from bytes in memory; ``name`` is for messages."""
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise PairError(f"Picture '{name}' is {opened.width} x {opened.height}: more than 64 megapixels. Scale it down first.")
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I;16", "I;16B", "I;16L", "I"):
                image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257).round().clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            image = image.convert("RGB")
            if size is not None:
                image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
            return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PairError(f"Picture '{name}' cannot be read ({error}). Save it again as PNG or JPEG.") from error
