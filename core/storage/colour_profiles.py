"""Colours of image files: ICC profiles applied, everything as sRGB."""

import io
from typing import Any

from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
"""Colour space of a profile -> Pillow's mode."""
_FITTING = {"RGB": ("L", "LA", "RGB", "RGBA"), "L": ("L", "LA"), "CMYK": ("CMYK",), "LAB": ("LAB",)}
"""Mode of a profile -> modes of images that it is applied to; grey images often carry a profile of colours."""


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, list[str]]:
    """An image as RGB, or RGBA where it has alpha, in sRGB.

    Args:
        image: L, LA, RGB, RGBA, CMYK or LAB.
        profile: the ICC profile that its values are meant in; without one they are sRGB, plain CMYK or CIELAB.

    Returns:
        The image, and a remark where the profile could not be used.
    """
    remarks = []
    if profile:
        try:
            return _converted(image, profile), remarks
        # Damaged profiles raise these, and so does a Pillow without colour management.
        except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError, LookupError):
            remarks.append("has a colour profile that is damaged or of another kind; it was not used")
    mode = "RGBA" if image.mode in ("LA", "RGBA") else "RGB"
    if image.mode == "LAB":
        return _applied(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), remarks
    return image if image.mode == mode else image.convert(mode), remarks


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _SPACES[source.profile.xcolor_space.strip()]
    if image.mode not in _FITTING[mode]:
        raise ValueError(f"a profile of {mode} in an image of {image.mode}")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colours = image if image.mode == mode else image.convert(mode)
    result = _applied(colours, source)
    if alpha is not None:
        result.putalpha(alpha)
    return result


def _applied(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    # Short cuts through a table are off by up to 7/255, but for RGB, where the short cut is exact.
    flags = ImageCms.Flags.NONE if image.mode == "RGB" else ImageCms.Flags.NOOPTIMIZE
    result = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), outputMode="RGB", flags=flags
    )
    assert result is not None  # as it is not done in place
    return result
