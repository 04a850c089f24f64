"""What a folder of pairs holds, without decoding its images: for the pairs board."""

import functools
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image

from ..errors import PairError, shown_text
from ..storage.image_files import IMAGES, MAX_PIXELS, formats, open_image
from ..storage.image_sizes import Size, same_ratio, vae_crop
from ..storage.image_tensors import on_white
from .board import keys_of
from .layouts import Layout, MissingPartnerError, mask_place
from .pair_lists import ListedPair, Refusals
from .pairs import MAX_PAIRS, MIN_SIDE, find_listed, mixed_ratios
from .table_images import ImagePlace, TableImage, readable

THUMBNAIL_SIDE = 256
_MOST_CACHED = 1024
# EXIF orientations that exchange width and height.
_TURNED = range(5, 9)
_ORIENTATION = 0x0112

Problem = Literal["", "file", "ratio", "partner"]
"""What is wrong: nothing, a file that cannot be used, two aspect ratios, or a missing partner."""


@dataclass(frozen=True)
class ImageFile:
    """An image of a pair. A file that cannot be read has the size 0 x 0."""

    file: str
    """Its place inside the folder, with slashes, see ``image_at`` in core/pairs/table_images.py."""
    width: int = 0
    height: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class SurveyedPair:
    """A pair, or an image without its partner."""

    key: str
    """How a ``Board`` names it; "" for an image without its partner."""
    name: str
    before: ImageFile | None
    after: ImageFile | None
    mask: ImageFile | None = None
    mask_place: str | None = None
    """Where a mask of the pair would be found, inside the folder."""
    missing: str | None = None
    """Where the missing partner would be found, inside the folder."""
    problem: Problem = ""
    sentence: str = ""
    """Says what is wrong and how to mend it."""


@dataclass(frozen=True)
class Survey:
    """What a folder holds."""

    layout: Layout
    pairs: tuple[SurveyedPair, ...]
    """Complete pairs in the reader's order, then images without their partners."""
    remarks: tuple[str, ...] = ()
    """Sentences about what belongs to no pair."""


def survey(folder: Path) -> Survey:
    """Lists the pairs of a folder as ``load_pairs`` finds them, with their sizes and problems.

    Raises:
        PairError: the folder cannot be read, or it holds no pairs and no image without its partner.
    """
    alone: list[MissingPartnerError] = []
    refused = Refusals()

    def refuse(error: PairError) -> None:
        if isinstance(error, MissingPartnerError):
            alone.append(error)
        else:
            refused.add(error)

    found, layout = find_listed(folder, refuse)
    pairs = [_surveyed(folder, key, pair, layout) for key, pair in zip(keys_of(found), found, strict=True)]
    pairs += [_single(folder, error) for error in alone[:MAX_PAIRS]]
    remarks = list(refused.texts)
    if refused.count > len(remarks):
        remarks.append(f"And {refused.count - len(remarks)} more entries cannot be used.")
    if len(alone) > MAX_PAIRS:
        remarks.append(f"And {len(alone) - MAX_PAIRS} more images have no partner.")
    if layout in ("names", "order"):
        remarks += _unused(folder, found, alone)
    return Survey(layout, tuple(pairs), tuple(map(shown_text, remarks)))


def image_size(path: ImagePlace) -> Size:
    """Height and width of an upright image, from its header where that is enough.

    Raises:
        PairError: the file cannot be read, or has more than 64 megapixels.
    """
    status = path.stat()
    return _image_size(path, status.st_size, status.st_mtime_ns)


def thumbnail_of(path: ImagePlace) -> bytes:
    """A JPEG of an image, at most 256 pixels wide and tall.

    Raises:
        PairError: the file cannot be read, or has more than 64 megapixels.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise PairError(f"Image '{path.name}' cannot be read ({error.strerror}).") from error
    return _thumbnail(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(_MOST_CACHED)
def _thumbnail(path: ImagePlace, _bytes: int, _changed: int) -> bytes:
    opened = open_image(
        readable(path), path.name, lambda width, height: max(width, height) // (2 * THUMBNAIL_SIDE)
    )
    image = on_white(opened.image)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


@functools.lru_cache(4 * _MOST_CACHED)
def _image_size(path: ImagePlace, _bytes: int, _changed: int) -> Size:
    try:
        with Image.open(readable(path), formats=formats()) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                # Without "exif" among the facts of a PNG, its own getexif decodes the image to find one.
                exif = image.getexif() if "exif" in image.info else Image.Image.getexif(image)
                return (width, height) if exif.get(_ORIENTATION) in _TURNED else (height, width)
    except Exception:  # formats that Pillow does not know, and damaged files of all kinds
        pass
    reduced = open_image(readable(path), path.name, lambda wide, tall: min(wide, tall) // THUMBNAIL_SIDE)
    width, height = reduced.size
    return height, width


def _surveyed(folder: Path, key: str, pair: ListedPair, layout: Layout) -> SurveyedPair:
    first, first_error = _file(folder, pair.before)
    second, second_error = _file(folder, pair.after)
    mask, mask_error = (None, "") if pair.mask is None else _file(folder, pair.mask)
    place = mask_place(folder, pair, layout)
    before, after = (first.height, first.width), (second.height, second.width)
    problem: Problem = "file"
    sentence = " ".join(error for error in (first_error, second_error, mask_error) if error)
    if not sentence and min(*before, *after) < MIN_SIDE:
        sentence = f"Pair '{pair.name}': each side needs at least {MIN_SIDE} pixels."
    if (
        not sentence
        and mask
        and not any(same_ratio((mask.height, mask.width), size) for size in (before, after))
    ):
        sentence = (
            f"The mask is {mask.width} x {mask.height}, which is another aspect ratio than the images have."
        )
    if not sentence and not _alike(before, after):
        problem, sentence = "ratio", str(mixed_ratios(pair.name, before, after))
    return SurveyedPair(
        key,
        pair.name,
        first,
        second,
        mask,
        place.relative_to(folder).as_posix() if place else None,
        problem=problem if sentence else "",
        sentence=sentence,
    )


def _single(folder: Path, error: MissingPartnerError) -> SurveyedPair:
    file, problem = _file(folder, error.image)
    before, after = (None, file) if error.side == "after" else (file, None)
    missing = None if error.partner is None else error.partner.relative_to(folder).as_posix()
    return SurveyedPair(
        "",
        error.image.stem,
        before,
        after,
        missing=missing,
        problem="partner",
        sentence=problem or str(error),
    )


def _file(folder: Path, path: ImagePlace) -> tuple[ImageFile, str]:
    """An image, and what is wrong with it."""
    name = path.relative_to(folder).as_posix()
    try:
        height, width = image_size(path)
        size = len(path.read_bytes()) if isinstance(path, TableImage) else path.stat().st_size
        return ImageFile(name, width, height, size), ""
    except PairError as error:
        return ImageFile(name), str(error)
    except OSError as error:
        return ImageFile(name), f"Image '{path.name}' cannot be read ({error.strerror})."


def _alike(first: Size, second: Size) -> bool:
    """Whether ``alike`` in core/pairs/pairs.py takes two sizes for one aspect ratio."""
    return vae_crop(*first)[2:] == vae_crop(*second)[2:] or same_ratio(first, second)


def _unused(folder: Path, found: list[ListedPair], alone: list[MissingPartnerError]) -> list[str]:
    used = {path for pair in found for path in (pair.before, pair.after, pair.mask)}
    used |= {error.image for error in alone}
    masks = {mask_place(folder, pair, "names") for pair in found}
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGES and not path.name.startswith(".") and path not in used | masks
    )
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [f"Not used, because the names do not say before or after: {shown}."]
