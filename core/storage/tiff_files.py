"""Reads the TIFF files that Pillow cannot read, such as color with 32 bits a channel."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..errors import PairError
from .bit_depth import to_eight_bits

_ORIENTATION = 274
_ICC_PROFILE = 34675
_WHITE_IS_ZERO = 0
_BLACK_IS_ZERO = 1
_RGB = 2
_SEPARATE_PLANES = 2
_MAX_BYTES = 2**31
# Decoded bytes per byte of the file: the highest ratio that Deflate reaches.
_MAX_RATIO = 1100


@dataclass(frozen=True)
class TiffImage:
    """The first page of a TIFF file."""

    image: Image.Image
    """8 bits a channel, as L, LA, RGB or RGBA."""
    orientation: int
    """1 to 8, as in EXIF."""
    profile: bytes | None
    """The ICC profile."""
    remarks: list[str]


def read_tiff(file: BinaryIO, check: Callable[[int, int], None]) -> TiffImage:
    """Reads the first page of a TIFF file with tifffile.

    Args:
        file: an open file, at any position.
        check: called with width and height before decoding; it may raise.

    Raises:
        PairError: tifffile is not installed.
        ValueError: the file is of an unsupported kind. Damaged files raise other errors too.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    with _tifffile().TiffFile(file) as tiff:
        page = tiff.pages[0]
        # Damaged files can hold lists here; int() refuses them.
        check(int(page.imagewidth), int(page.imagelength))
        if page.nbytes > min(_MAX_BYTES, size * _MAX_RATIO):
            raise ValueError(f"its decoded size is {page.nbytes / 1e6:.0f} MB")
        values, remarks = _channels(page)
        if len(tiff.pages) > 1:
            remarks.append("holds several frames or pages; the first one is taken")
        orientation = _tag(page, _ORIENTATION)
        profile = _tag(page, _ICC_PROFILE)
    return TiffImage(
        Image.fromarray(values), int(orientation or 1), bytes(profile) if profile else None, remarks
    )


def _tag(page: Any, code: int) -> Any:
    tag = page.tags.get(code)
    return tag.value if tag else None


def _tifffile() -> Any:
    try:
        return importlib.import_module("tifffile")
    except ImportError as error:
        raise PairError(
            "TIFF images of this kind need tifffile. Install it (pip install tifffile), "
            "or save the image as PNG."
        ) from error


def _channels(page: Any) -> tuple[np.ndarray, list[str]]:
    """Returns uint8 values [H, W] or [H, W, C] with 2 to 4 channels, and remarks."""
    values = np.asarray(page.asarray())
    if values.ndim == 3 and page.planarconfig == _SEPARATE_PLANES:
        values = np.moveaxis(values, 0, -1)
    colors = {_RGB: 3, _BLACK_IS_ZERO: 1, _WHITE_IS_ZERO: 1}.get(int(page.photometric), 0)
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or not 0 < colors <= channels:
        raise ValueError("its colors are of an unsupported kind")
    values = values.reshape(*values.shape[:2], channels)
    has_stated_range = values.dtype.kind in "ub" and values.dtype.itemsize <= 2
    top = 2.0**page.bitspersample - 1 if has_stated_range else None
    # Alpha is scaled separately: colors may exceed 1 while alpha does not.
    scaled, remarks = to_eight_bits(values[..., :colors], top)
    if int(page.photometric) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    if len(page.extrasamples) and channels > colors:
        alpha, _ = to_eight_bits(values[..., colors : colors + 1], top)
        scaled = np.concatenate([scaled, alpha], axis=2)
    return (scaled[..., 0] if scaled.shape[2] == 1 else scaled), remarks
