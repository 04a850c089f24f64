"""Images of rows: decoded, cut to a square, and encoded again."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from PIL import Image
from torch import Tensor

from ..storage.image_files import decode_image, decode_sized
from ..storage.image_tensors import to_image
from ..storage.parquet import image_bytes
from .errors import Refused

# An image is enlarged at most this many times.
_MOST_ENLARGED = 2


def read_cell(cell: Any, name: str) -> Tensor:
    """Decodes an image's cell as [H, W, 3] fp32 in 0..1.

    Raises:
        DataError: the cell holds no bytes.
        PairError: the image cannot be read.
    """
    return decode_image(BytesIO(image_bytes(cell, name)), name)


def square(content: bytes, name: str, side: int) -> Tensor:
    """Decodes an image and cuts the square out of its middle, [side, side, 3] fp32 in 0..1.

    Raises:
        Refused: the image is less than half as large.
        PairError: the image cannot be read.
    """
    image, (width, height) = decode_sized(BytesIO(content), name, side)
    if min(width, height) * _MOST_ENLARGED < side:
        raise Refused("the image is too small", f"{width} x {height}; {side} are wanted")
    return image


def as_png(image: Tensor) -> Mapping[str, Any]:
    """Encodes an image [H, W, 3], or a mask [H, W], in 0..1 as the cell of a PNG file."""
    file = BytesIO()
    gray = image.ndim == 2
    picture: Image.Image = to_image(image[..., None].expand(-1, -1, 3) if gray else image)
    (picture.convert("L") if gray else picture).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}
