"""Folders of images that are edited."""

import os
from pathlib import Path

from ..errors import InstructBrushError, PairError
from ..storage.image_files import IMAGES, open_image

_ENOUGH = 64
"""Pixels of width that show whether an image can be decoded."""


def check_not_among_inputs(out: Path, image: Path) -> None:
    """Refuses a folder for results that holds the images.

    Raises:
        InstructBrushError: ``out`` is the folder of ``image``.
    """
    if os.path.realpath(out) == os.path.realpath(image.parent):
        raise InstructBrushError(
            f"Results would be written among the inputs in '{out}'. Give another --out folder."
        )


def list_images(source: Path) -> list[Path]:
    """Lists the images of a folder, or one image.

    Raises:
        InstructBrushError: there are none, or the folder cannot be listed.
    """
    try:
        if source.is_file():
            return [source]
        files = sorted(source.iterdir())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InstructBrushError(
            f"Images folder '{source}' does not exist. Give a folder of images, or one image."
        ) from error
    except OSError as error:
        raise InstructBrushError(
            f"Images folder '{source}' cannot be listed: {error.strerror}. Check its permissions."
        ) from error
    images = [path for path in files if _is_image(path)]
    if not images:
        raise InstructBrushError(f"Images folder '{source}' holds no images ({', '.join(sorted(IMAGES))}).")
    return images


def is_readable(image: Path) -> bool:
    """Whether an image can be decoded."""
    try:
        # Smaller, which saves time.
        open_image(image, image.name, lambda width, _: width // _ENOUGH)
    except PairError:
        return False
    return True


def _is_image(path: Path) -> bool:
    if path.suffix.lower() not in IMAGES or path.name.startswith("."):
        return False
    # Keep broken links, so that they are reported as unreadable. Skip pipes: reading one could block forever.
    return path.is_file() or not path.exists()
