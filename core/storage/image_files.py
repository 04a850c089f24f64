"""Reads image files of all kinds as upright sRGB images with 8 bits a channel, and writes PNG files."""

import contextlib
import functools
import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..errors import InstructBrushError, PairError
from .bit_depth import to_eight_bits
from .color_profiles import to_srgb
from .files import atomic_write
from .image_tensors import from_image, on_white
from .tiff_files import read_tiff

logger = logging.getLogger(__name__)

# Endings of image files in folders. How a file is decoded depends on its content.
IMAGES = frozenset(
    f".{ending}"
    for ending in (
        *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "mpo", "webp", "bmp", "gif", "tif", "tiff"),
        *("avif", "heic", "heif", "hif", "jp2", "j2k", "jpf", "jpx", "ppm", "pgm", "pbm", "pnm"),
    )
)
MAX_PIXELS = 64 * 2**20

# Formats that Pillow decodes itself; it would pass PostScript on to Ghostscript.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF")
# First bytes of the formats that are read even if the end of the file is missing: PNG and JPEG.
_TRUNCATABLE = (b"\x89PNG\r\n", b"\xff\xd8\xff")
_MOST_MISSING_ROWS = 0.25
# Bit depth and color type in a PNG file, the first thing after the size.
_PNG_KIND = slice(24, 26)
# (these two bytes, mode of the image) -> the raw modes that together read all bytes of its channels.
_RAW_MODES = {
    (b"\x10\x02", "RGB"): ("RGB;16B", "RGB;16L"),
    (b"\x10\x06", "RGBA"): ("RGBA;16B", "RGBA;16L"),
    (b"\x10\x04", "RGBA"): ("RGBA",),
}
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
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_SAMPLE_FORMAT = 339
_truncation_lock = threading.Lock()

Reduction = Callable[[int, int], int]
"""(width, height) -> the factor by which an image may be reduced."""


@dataclass(frozen=True)
class OpenedImage:
    """A decoded image."""

    image: Image.Image
    """RGB, or RGBA where the file has transparency."""
    size: tuple[int, int]
    """Width and height of the upright image before any reduction."""
    remarks: tuple[str, ...]
    """Sentences that warn the user about the file."""


def read_image(path: Path, size: int | None = None) -> Tensor:
    """Reads an image as [H, W, 3] fp32 in 0..1. See ``open_image``; transparency becomes white.

    Logs remarks about the file.

    Args:
        path: the file.
        size: if given, the image is scaled to cover a square of this many pixels and cropped at its center.

    Raises:
        PairError: the file cannot be read, or has more than 64 megapixels.
    """
    return decode_image(path, path.name, size)


def decode_image(file: Path | BinaryIO, name: str, size: int | None = None) -> Tensor:
    """Like ``read_image``, also for bytes in memory. ``name`` appears in messages."""
    return decode_sized(file, name, size)[0]


def decode_sized(file: Path | BinaryIO, name: str, size: int | None = None) -> tuple[Tensor, tuple[int, int]]:
    """Like ``decode_image``; also returns the file's width and height."""

    def reduction(width: int, height: int) -> int:
        return 1 if size is None else min(width, height) // (2 * size)

    opened = open_image(file, name, reduction)
    for remark in opened.remarks:
        logger.warning("%s", remark)
    image = on_white(opened.image)
    image = image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return from_image(image), opened.size


def _no_reduction(_width: int, _height: int) -> int:
    return 1


def open_image(file: Path | BinaryIO, name: str, reduction: Reduction = _no_reduction) -> OpenedImage:
    """Decodes the first frame or page of an image file. The content decides the format, not the ending.

    Applies rotation (EXIF) and color profiles (ICC). Scales deeper values with ``to_eight_bits``.
    Reads a truncated PNG or JPEG if at least three quarters of its rows are present.

    Args:
        file: a path, or bytes in memory.
        name: name of the image in messages.
        reduction: allows large images to be decoded at a smaller size, which saves memory and time.

    Raises:
        PairError: the file cannot be read, or has more than 64 megapixels.
    """
    try:
        with file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file) as opened:
            return _open(_Stream(opened), name, reduction)
    except InstructBrushError:
        raise
    except Exception as error:  # decoders raise errors of all kinds for damaged files
        raise PairError(
            f"Image '{name}' cannot be read ({_reason(error)}). Save it again as PNG or JPEG."
        ) from error


class _Stream:
    """A file that records reads beyond its end, which reveal a truncated file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.ran_out = False

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.ran_out |= not data and size != 0
        return data

    def first_bytes(self, size: int) -> bytes:
        """Returns the first bytes and rewinds the file."""
        self._file.seek(0)
        data = self._file.read(size)
        self._file.seek(0)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _open(stream: _Stream, name: str, reduction: Reduction) -> OpenedImage:
    if not stream.first_bytes(1):
        raise ValueError("it is empty")
    remarks: list[str] = []
    if _is_deep_color_tiff(stream):
        # tifffile lacks some compressions, and may be missing. Then Pillow reads the upper 8 bits.
        with contextlib.suppress(Exception):
            return _open_tiff(stream, name, reduction)
        remarks.append("holds more than 8 bits a channel, of which the upper 8 are read")
    try:
        decoded, size = _load(stream, name, reduction)
    except (OSError, SyntaxError) as error:
        if stream.first_bytes(16).startswith(_TRUNCATABLE):
            decoded, size = _load_truncated(stream, name, reduction, error)
        elif isinstance(error, UnidentifiedImageError):
            return _open_unknown_to_pillow(stream, name, reduction)
        else:
            raise
    # The JPEG 2000 decoder reads beyond the end of complete files too.
    if stream.ran_out and decoded.format != "JPEG2000":
        remarks.append("is cut short and was read as far as it goes. Copy or download it again if you can")
    if getattr(decoded, "is_animated", False):
        remarks.append("holds several frames or pages; the first one is taken")
    eight_bits = _rounded_png(stream, decoded) or _eight_bit_image(decoded, remarks)
    image = _reduced(eight_bits, size, reduction)
    return _upright_srgb(image, size, _orientation(decoded), decoded.info.get("icc_profile"), name, remarks)


def _load(stream: _Stream, name: str, reduction: Reduction) -> tuple[Image.Image, tuple[int, int]]:
    """Returns the image as Pillow decodes it, and its size before any reduction."""
    stream.seek(0)
    try:
        image = Image.open(cast(BinaryIO, stream), formats=formats())
    except Image.DecompressionBombError as error:
        raise PairError(f"Image '{name}' has more than 64 megapixels. Scale it down first.") from error
    size = image.size
    _check_size(*size, name)
    times = max(reduction(*size), 1)
    # JPEG can be decoded directly at 1/2, 1/4 or 1/8 of its size.
    image.draft(None, (max(size[0] // times, 1), max(size[1] // times, 1)))
    drafted = image.size != size
    stream.ran_out = False
    image.load()
    return image, size if drafted else image.size


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise PairError(
            f"Image '{name}' is {width} x {height}: more than 64 megapixels. Scale it down first."
        )


def _load_truncated(
    stream: _Stream, name: str, reduction: Reduction, error: Exception
) -> tuple[Image.Image, tuple[int, int]]:
    with _truncated_images_allowed():
        image, size = _load(stream, name, reduction)
    if not stream.ran_out:
        raise error  # it is damaged in another way
    missing = _missing_rows(image)
    if missing > _MOST_MISSING_ROWS:
        raise ValueError(f"it is cut short: {missing:.0%} of it is missing")
    return image, size


@contextlib.contextmanager
def _truncated_images_allowed() -> Iterator[None]:
    # Pillow has this setting per process only. Other threads still notice truncated files by ran_out.
    with _truncation_lock:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _missing_rows(image: Image.Image) -> float:
    """Returns the fraction of rows at the bottom that hold only the decoder's fill value."""
    if image.info.get("interlace"):
        return 1.0  # the missing pixels are spread over the whole image
    fill = (0,) if image.format == "PNG" else (127, 128)
    rows = np.isin(np.asarray(image), fill).reshape(image.height, -1).all(axis=1)
    decoded = np.flatnonzero(~rows)
    return 1 - (decoded[-1] + 1) / image.height if len(decoded) else 1.0


def _open_unknown_to_pillow(stream: _Stream, name: str, reduction: Reduction) -> OpenedImage:
    first = stream.first_bytes(16)
    if first[4:8] == b"ftyp":
        raise PairError(
            f"Image '{name}' is a HEIC or AVIF image, which this Pillow cannot read. "
            "Install pillow-heif (pip install pillow-heif), or save it as JPEG."
        )
    if not first.startswith(_TIFF):
        raise ValueError(
            "it is not an image, or not in one of the formats PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, JPEG "
            "2000 and PPM"
        )
    return _open_tiff(stream, name, reduction)


def _is_deep_color_tiff(stream: _Stream) -> bool:
    """Whether a file is a color TIFF with more than 8 bits a channel. Pillow drops the others."""
    if not stream.first_bytes(4).startswith(_TIFF):
        return False
    # Damaged headers raise errors of all kinds; the decoder reports them.
    with contextlib.suppress(Exception), Image.open(cast(BinaryIO, stream), formats=["TIFF"]) as image:
        bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, ())
        return len(bits) >= 3 and max(bits) > 8 and image.width * image.height <= MAX_PIXELS
    return False


def _open_tiff(stream: _Stream, name: str, reduction: Reduction) -> OpenedImage:
    tiff = read_tiff(cast(BinaryIO, stream), lambda width, height: _check_size(width, height, name))
    size = tiff.image.size
    image = _reduced(tiff.image, size, reduction)
    return _upright_srgb(image, size, tiff.orientation, tiff.profile, name, tiff.remarks)


def _rounded_png(stream: _Stream, image: Image.Image) -> Image.Image | None:
    """Returns a complete PNG of 16 bits with several channels, rounded to 8 bits; None for other images.

    Pillow reads the upper 8 bits of such a file. Other raw modes of the same width read the other bytes.
    """
    raw_modes = _RAW_MODES.get((stream.first_bytes(_PNG_KIND.stop)[_PNG_KIND], image.mode))
    if image.format != "PNG" or stream.ran_out or raw_modes is None:
        return None
    planes = []
    for raw_mode in raw_modes:
        stream.seek(0)
        again = cast(ImageFile.ImageFile, Image.open(cast(BinaryIO, stream), formats=["PNG"]))
        again.tile = [tile._replace(args=raw_mode) for tile in again.tile]
        planes.append(np.asarray(again))
    # Bytes in the file's order: of each channel the upper one first.
    raw = np.stack(planes, axis=-1) if len(planes) > 1 else planes[0].reshape(*planes[0].shape[:2], -1, 2)
    values = np.ascontiguousarray(raw).view(">u2")[..., 0]
    rounded, _ = to_eight_bits(values, 65535)
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple):
        alpha = np.where((values == transparent).all(axis=-1), 0, 255).astype(np.uint8)
        rounded = np.dstack([rounded, alpha])
    return Image.fromarray(rounded)


def _eight_bit_image(image: Image.Image, remarks: list[str]) -> Image.Image:
    """Converts to 8 bits a channel, as L, LA, RGB, RGBA, CMYK or LAB. Appends to ``remarks``."""
    if image.mode.startswith(("I", "F")):
        values, new_remarks = to_eight_bits(*_deep_values(image))
        remarks.extend(new_remarks)
        return Image.fromarray(values)
    mode = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "RGB")
    if image.has_transparency_data:
        mode = "LA" if mode == "L" else "RGBA"
    return image if image.mode == mode else image.convert(mode)


def _deep_values(image: Image.Image) -> tuple[np.ndarray, float | None]:
    """Returns the values of a gray image of 16 or 32 bits, and the largest possible value if known."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    top: float | None = None
    if image.mode == "I" and tags:
        bits = tags.get(_TIFF_BITS_PER_SAMPLE, (1,))[0]
        signed = tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0] == 2
        if not signed and bits == 32:
            values = values.view(np.uint32)
        elif not signed:
            top = 2.0**bits - 1
    elif image.mode != "F":
        top = 2.0 ** (tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0] if tags else 16) - 1
    # 0 means that white is zero, which Pillow inverts for 8-bit images only.
    if tags.get(_TIFF_PHOTOMETRIC) == 0:
        values = (top or float(values.max())) - values.astype(np.float32)
    return values, top


def _orientation(image: Image.Image) -> int:
    # Damaged EXIF raises errors of all kinds. Image viewers ignore it too.
    with contextlib.suppress(Exception):
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _reduced(image: Image.Image, size: tuple[int, int], reduction: Reduction) -> Image.Image:
    """Reduces a decoded image further if decoding did not reduce it from ``size`` enough."""
    times = reduction(*size) * image.width // size[0]
    return image.reduce(times) if times > 1 else image


def _upright_srgb(
    image: Image.Image,
    size: tuple[int, int],
    orientation: int,
    profile: bytes | None,
    name: str,
    remarks: list[str],
) -> OpenedImage:
    # ImageOps.exif_transpose rewrites the EXIF, which fails for the EXIF of some cameras.
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
        size = size if orientation < 5 else (size[1], size[0])
    image, profile_remarks = to_srgb(image, profile)
    return OpenedImage(image, size, tuple(f"Image '{name}' {text}." for text in (*remarks, *profile_remarks)))


def save_image(image: Image.Image, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Writes an image as PNG, with optional texts in its header.

    Raises:
        StorageError: see ``atomic_write``.
    """
    header = PngImagePlugin.PngInfo()
    for key, text in (texts or {}).items():
        header.add_text(key, text)
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=header)


@functools.cache
def formats() -> list[str]:
    """Returns the formats that this Pillow reads, with HEIC if pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its beginning is damaged"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
