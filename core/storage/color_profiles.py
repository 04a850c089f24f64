"""Converts colors to sRGB by applying ICC profiles."""

import io
from typing import Any

from PIL import Image, ImageCms

# Color space of a profile -> Pillow's mode.
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
# Mode of a profile -> modes of images it can apply to. Gray images often carry an RGB profile.
_COMPATIBLE_MODES = {
    "RGB": ("L", "LA", "RGB", "RGBA"),
    "L": ("L", "LA"),
    "CMYK": ("CMYK",),
    "LAB": ("LAB",),
}


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, list[str]]:
    """Converts an image to sRGB, as RGB, or as RGBA if it has alpha.

    Args:
        image: L, LA, RGB, RGBA, CMYK or LAB.
        profile: the image's ICC profile. Without one the values are read as sRGB, plain CMYK or CIELAB.

    Returns:
        The image, and a remark if the profile could not be used.
    """
    remarks = []
    if profile:
        try:
            return _converted(image, profile), remarks
        # Damaged profiles raise these, and so does Pillow without color management.
        except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError, LookupError):
            remarks.append("has a color profile that is damaged or of another kind; it was not used")
    mode = "RGBA" if image.mode in ("LA", "RGBA") else "RGB"
    if image.mode == "LAB":
        return _applied(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), remarks
    return image if image.mode == mode else image.convert(mode), remarks


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _SPACES[source.profile.xcolor_space.strip()]
    if image.mode not in _COMPATIBLE_MODES[mode]:
        raise ValueError(f"a profile of {mode} in an image of {image.mode}")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colors = image if image.mode == mode else image.convert(mode)
    result = _applied(colors, source)
    if alpha is not None:
        result.putalpha(alpha)
    return result


def _applied(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    # Optimized lookup tables are off by up to 7/255, except for RGB, where they are exact.
    flags = ImageCms.Flags.NONE if image.mode == "RGB" else ImageCms.Flags.NOOPTIMIZE
    result = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), outputMode="RGB", flags=flags
    )
    assert result is not None  # None only for in-place conversion
    return result
