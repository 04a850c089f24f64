"""Image files as people have them: opened, turned upright, in the colours of sRGB, with 8 bits a channel."""

import contextlib
import functools
import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import InstructBrushError, PairError
from .bit_depth import eight_bits, read_tiff
from .colour_profiles import to_srgb
from .images import from_image, on_white

logger = logging.getLogger(__name__)

IMAGES = frozenset(
    f".{ending}"
    for ending in (
        *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "mpo", "webp", "bmp", "gif", "tif", "tiff"),
        *("avif", "heic", "heif", "hif", "jp2", "j2k", "jpf", "jpx", "ppm", "pgm", "pbm", "pnm"),
    )
)
"""Endings that make a file of a folder an image; what it is in truth, its content says."""
MAX_PIXELS = 64 * 2**20

# Formats of pixels that take no other program: Pillow hands PostScript to Ghostscript.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF")
_TOLERATED = (b"\x89PNG\r\n", b"\xff\xd8\xff")
"""How PNG and JPEG files begin, which are read where their end is missing."""
_MAY_LACK = 0.25
"""Share of the rows."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_tolerance = threading.Lock()

Reduction = Callable[[int, int], int]
"""(width, height) -> how many times smaller an image may come."""


@dataclass(frozen=True)
class OpenedImage:
    """A decoded image."""

    image: Image.Image
    """RGB, or RGBA where the file has transparency."""
    size: tuple[int, int]
    """Width and height of the upright image; those of the image are smaller where that was allowed."""
    remarks: tuple[str, ...]
    """What a user should know of it, a sentence each."""


def read_image(path: Path, size: int | None = None) -> Tensor:
    """An image as [H, W, 3] fp32 in 0..1: as :func:`open_image`, with transparency on white. Remarks are logged.

    Args:
        path: of the file.
        size: when given, the image is scaled to cover a square of this many pixels and cropped at its centre.

    Raises:
        PairError: unreadable, or more than 64 megapixels.
    """
    return decode_image(path, path.name, size)


def decode_image(file: Path | BinaryIO, name: str, size: int | None = None) -> Tensor:
    """As :func:`read_image`, also from bytes in memory; ``name`` is for messages."""
    frame = open_image(
        file, name, _whole if size is None else lambda width, height: min(width, height) // (2 * size)
    )
    for remark in frame.remarks:
        logger.warning("%s", remark)
    image = on_white(frame.image)
    return from_image(image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))


def _whole(_width: int, _height: int) -> int:
    return 1


def open_image(file: Path | BinaryIO, name: str, reduction: Reduction = _whole) -> OpenedImage:
    """Decode an image: what its content says counts, whatever its ending; of several frames or pages the first.

    Rotation (EXIF) and colour profiles (ICC) are applied. Values of more than 8 bits are scaled by :func:`.bit_depth.eight_bits`. A PNG or JPEG
    whose end is missing is read while at least three quarters of its rows are there.

    Args:
        file: a path, or bytes in memory.
        name: for messages.
        reduction: lets large images be decoded smaller, which takes less memory and time.

    Raises:
        PairError: unreadable, or more than 64 megapixels.
    """
    try:
        with file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file) as opened:
            return _open(_Stream(opened), name, reduction)
    except InstructBrushError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them meet
        raise PairError(
            f"Image '{name}' cannot be read ({_reason(error)}). Save it again as PNG or JPEG."
        ) from error


class _Stream:
    """A file that notices when more is read than it has."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.ran_out = False

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.ran_out |= not data and size != 0
        return data

    def begin(self, size: int) -> bytes:
        """The first bytes; reading then begins anew."""
        self._file.seek(0)
        data = self._file.read(size)
        self._file.seek(0)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _open(stream: _Stream, name: str, reduction: Reduction) -> OpenedImage:
    if not stream.begin(1):
        raise ValueError("it is empty")
    remarks: list[str] = []
    try:
        decoded, size = _load(stream, name, reduction)
    except (OSError, SyntaxError) as error:
        if stream.begin(16).startswith(_TOLERATED):
            decoded, size = _load_cut(stream, name, reduction, error)
        elif isinstance(error, UnidentifiedImageError):
            return _open_otherwise(stream, name, reduction)
        else:
            raise
    if (
        stream.ran_out and decoded.format != "JPEG2000"
    ):  # whose decoder reads on at the end of a whole file, too
        remarks.append("is cut short and was read as far as it goes. Copy or download it again if you can")
    if getattr(decoded, "is_animated", False):
        remarks.append("holds several frames or pages; the first one is taken")
    image = _plain(decoded, remarks)
    return _finished(
        image, size, _orientation(decoded), decoded.info.get("icc_profile"), name, remarks, reduction
    )


def _load(stream: _Stream, name: str, reduction: Reduction) -> tuple[Image.Image, tuple[int, int]]:
    """The image as Pillow decodes it, and the size of the whole picture."""
    stream.seek(0)
    try:
        image = Image.open(cast(BinaryIO, stream), formats=_formats())
    except Image.DecompressionBombError as error:
        raise PairError(f"Image '{name}' has more than 64 megapixels. Scale it down first.") from error
    size = image.size
    _check_size(*size, name)
    times = max(reduction(*size), 1)
    image.draft(None, (size[0] // times, size[1] // times))  # JPEG is decoded at 1/2, 1/4 or 1/8 at once
    drafted = image.size != size
    stream.ran_out = False
    image.load()
    return image, size if drafted else image.size


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise PairError(
            f"Image '{name}' is {width} x {height}: more than 64 megapixels. Scale it down first."
        )


def _load_cut(
    stream: _Stream, name: str, reduction: Reduction, error: Exception
) -> tuple[Image.Image, tuple[int, int]]:
    """As :func:`_load`, of a PNG or JPEG whose end is missing."""
    with _tolerant():
        image, size = _load(stream, name, reduction)
    if not stream.ran_out:
        raise error  # it is damaged in another way
    missing = _missing(image)
    if missing > _MAY_LACK:
        raise ValueError(f"it is cut short: {missing:.0%} of it is missing")
    return image, size


@contextlib.contextmanager
def _tolerant() -> Iterator[None]:
    # Pillow knows this for the whole process only. What other threads read meanwhile says of itself that it ran out.
    with _tolerance:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _missing(image: Image.Image) -> float:
    """Share of the rows, at the lower end, that only hold what the decoder fills in."""
    if image.info.get("interlace"):
        return 1.0  # what is missing lies all over the image
    fill = (0,) if image.format == "PNG" else (127, 128)
    rows = np.isin(np.asarray(image), fill).reshape(image.height, -1).all(axis=1)
    there = np.flatnonzero(~rows)
    return 1 - (there[-1] + 1) / image.height if len(there) else 1.0


def _open_otherwise(stream: _Stream, name: str, reduction: Reduction) -> OpenedImage:
    """What Pillow does not know."""
    begin = stream.begin(16)
    if begin[4:8] == b"ftyp":
        raise PairError(
            f"Image '{name}' is a HEIC or AVIF image, which this Pillow cannot read. Install pillow-heif (pip install pillow-heif), or save it as JPEG."
        )
    if not begin.startswith(_TIFF):
        raise ValueError(
            "it is no image, or none of the formats PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 and PPM"
        )
    tiff = read_tiff(cast(BinaryIO, stream), lambda width, height: _check_size(width, height, name))
    return _finished(
        tiff.image, tiff.image.size, tiff.orientation, tiff.profile, name, tiff.remarks, reduction
    )


def _plain(image: Image.Image, remarks: list[str]) -> Image.Image:
    """With 8 bits a channel, as L, LA, RGB, RGBA, CMYK or LAB."""
    if image.mode.startswith(("I", "F")):
        values, remark = eight_bits(*_values(image))
        remarks.extend(remark)
        return Image.fromarray(values)
    mode = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "RGB")
    if image.has_transparency_data:
        mode = "LA" if mode == "L" else "RGBA"
    return image if image.mode == mode else image.convert(mode)


def _values(image: Image.Image) -> tuple[np.ndarray, float | None]:
    """The values of a grey image of 16 or 32 bits, and the largest possible one where the file says so.

    Pillow reads 16-bit colour as 8 bits, the upper ones: right to 1/255.
    """
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags:
        bits, signed = tags.get(258, (1,))[0], tags.get(339, (1,))[0] == 2
        values, top = (
            (values, None)
            if signed
            else (values.view(np.uint32), None)
            if bits == 32
            else (values, 2.0**bits - 1)
        )
    elif image.mode == "F":
        top = None
    else:
        top = 2.0 ** (tags.get(258, (16,))[0] if tags else 16) - 1
    if tags.get(262) == 0:  # white is zero, which Pillow turns round in images of 8 bits only
        values = (top or float(values.max())) - values.astype(np.float32)
    return values, top


def _orientation(image: Image.Image) -> int:
    # Damaged EXIF raises all kinds of errors, and viewers show the image without it.
    with contextlib.suppress(Exception):
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _finished(
    image: Image.Image,
    size: tuple[int, int],
    orientation: int,
    profile: bytes | None,
    name: str,
    remarks: list[str],
    reduction: Reduction,
) -> OpenedImage:
    times = reduction(*size) * image.width // size[0]
    if times > 1:
        image = image.reduce(times)
    # ImageOps.exif_transpose writes the EXIF anew, which fails on some that cameras write.
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
        size = size if orientation < 5 else (size[1], size[0])
    image, remark = to_srgb(image, profile)
    return OpenedImage(image, size, tuple(f"Image '{name}' {text}." for text in (*remarks, *remark)))


@functools.cache
def _formats() -> list[str]:
    """The formats that this Pillow reads; HEIC where pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its beginning is damaged"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
