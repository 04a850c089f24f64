"""Images of more than 8 bits a channel: the rule that scales their values, and the TIFF files that Pillow does not know."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..errors import PairError

_RANGES = (1.0, 255.0, 65535.0)
_RGB, _WHITE_IS_ZERO, _BLACK_IS_ZERO = 2, 0, 1
_PLANES_APART = 2
_MAX_BYTES = 2**31
_MAX_RATIO = 1100
"""Decoded bytes for each of a file: what Deflate reaches at most."""


@dataclass(frozen=True)
class TiffImage:
    """The first page of a TIFF file."""

    image: Image.Image
    """8 bits a channel, as L, LA, RGB or RGBA."""
    orientation: int
    """As in EXIF."""
    profile: bytes | None
    """ICC."""
    remarks: list[str]


def eight_bits(values: np.ndarray, top: float | None = None) -> tuple[np.ndarray, list[str]]:
    """Values of any kind as 0..255 in uint8.

    Where a file says what its largest possible value is, that becomes 255. Where it does not, as with 32 bits, the values decide: up to 1 they are in
    0..1, up to 255 in 0..255, up to 65535 in 0..65535, and beyond that their largest one becomes 255. Floats of which no more than half lie above 1 are
    in 0..1 with highlights, which are clipped. Values below 0 are clipped.

    Args:
        values: whole numbers or floats.
        top: the largest possible one where it is known.

    Returns:
        The values, and remarks about what was scaled or clipped.

    Raises:
        ValueError: some are not finite.
    """
    remarks = []
    is_float = values.dtype.kind == "f"
    if is_float and not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    if values.min() < 0:
        remarks.append(f"holds values down to {values.min():g}; those below 0 are clipped")
    if top is None:
        largest = float(values.max())
        if is_float and largest > 1 and 2 * np.count_nonzero(values > 1) <= values.size:
            top = 1.0
            remarks.append(f"holds values up to {largest:g}; those above 1 are clipped")
        else:
            top = next((each for each in _RANGES if largest <= each), largest)
            if top != 1:
                remarks.append(
                    f"does not say its range; its values go up to {largest:g} and are taken as 0 to {top:g}"
                )
    scaled = np.multiply(values, 255 / top, dtype=np.float32 if values.dtype.itemsize <= 4 else np.float64)
    return scaled.round(out=scaled).clip(0, 255, out=scaled).astype(np.uint8), remarks


def read_tiff(file: BinaryIO, check: Callable[[int, int], None]) -> TiffImage:
    """Read a TIFF that Pillow does not know, such as colours of 32 bits.

    Args:
        file: at any place.
        check: told width and height before anything is decoded; it may raise.

    Raises:
        ImportError, ValueError: it cannot be read; a damaged file raises other errors too.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    with _tifffile().TiffFile(file) as tiff:
        page = tiff.pages[0]
        # Damaged files have lists here, which would be multiplied into huge ones.
        check(int(page.imagewidth), int(page.imagelength))
        if page.nbytes > min(_MAX_BYTES, size * _MAX_RATIO):
            raise ValueError(f"it promises {page.nbytes / 1e6:.0f} MB")
        values, remarks = _channels(page)
        if len(tiff.pages) > 1:
            remarks.append("holds several frames or pages; the first one is taken")
        orientation, profile = (tag.value if (tag := page.tags.get(code)) else None for code in (274, 34675))
    return TiffImage(
        Image.fromarray(values), int(orientation or 1), bytes(profile) if profile else None, remarks
    )


def _tifffile() -> Any:
    try:
        return importlib.import_module("tifffile")
    except ImportError as error:
        raise PairError(
            "TIFF images of this kind need tifffile. Install it (pip install tifffile), or save the image as PNG."
        ) from error


def _channels(page: Any) -> tuple[np.ndarray, list[str]]:
    """[H, W] or [H, W, C] in uint8, C 2, 3 or 4, and remarks."""
    values = np.asarray(page.asarray())
    if values.ndim == 3 and page.planarconfig == _PLANES_APART:
        values = np.moveaxis(values, 0, -1)
    colours = {_RGB: 3, _BLACK_IS_ZERO: 1, _WHITE_IS_ZERO: 1}.get(int(page.photometric), 0)
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or not 0 < colours <= channels:
        raise ValueError("its colours are of a kind that is not read")
    values = values.reshape(*values.shape[:2], channels)
    stated = values.dtype.kind in "ub" and values.dtype.itemsize <= 2
    top = 2.0**page.bitspersample - 1 if stated else None
    # Alpha has a range of its own: colours may go beyond 1 where it does not.
    scaled, remarks = eight_bits(values[..., :colours], top)
    if int(page.photometric) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    if len(page.extrasamples) and channels > colours:
        scaled = np.concatenate([scaled, eight_bits(values[..., colours : colours + 1], top)[0]], axis=2)
    return (scaled[..., 0] if scaled.shape[2] == 1 else scaled), remarks
