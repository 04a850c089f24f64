"""Before/after pairs: read from folders or made from images in memory, brought to one size, and checked."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import PairError, shown_text
from ..progress import Progress
from ..storage.image_files import OpenedImage, open_image
from ..storage.image_sizes import VAE_STRIDE, Size, covering, padded, same_ratio, scaled, vae_cropped
from ..storage.image_tensors import from_image, image_batch, on_white
from .board import Board, arrange
from .layouts import Layout, pairs_in, pairs_of
from .mask_reading import check_white, mask_like
from .pair_lists import ListedPair, Refusals, Refuse
from .pair_tables import pairs_of_tables, table_files
from .table_images import ENDING, ImagePlace, forget_columns, readable

MAX_PAIRS = 1000
MIN_SIDE = 16
_MOST_SIDE = 4096
# Images whose size is not chosen are scaled down to this, the largest size that editing models are made for.
_MOST_PIXELS = 1024 * 1024
# Most entries of a list that are read, and most entries and images that are refused.
_MOST_ENTRIES = 10_000

Fit = Literal["stop", "crop", "pad"]
"""What to do with a pair of two aspect ratios: raise an error, crop to the middle, or pad the border."""
FITS: tuple[Fit, ...] = get_args(Fit)

# Changes that are made to pairs -> what users are told about them.
_CHANGES = {
    "scaled": "before and after differ in size: the larger image is scaled to the smaller one",
    "trimmed": "sides are not multiples of 8: the middle of both images is used",
    "shrunk": "images of more than 1024 x 1024 pixels are scaled down to that; choose a size to learn at "
    "another",
    "crop": "before and after differ in aspect ratio: the larger image is scaled and cropped to the smaller "
    "one",
    "pad": "before and after differ in aspect ratio: the larger image is scaled into the smaller one's "
    "size, and its border is repeated",
    "masked": "learning acts only where the pair's mask is white",
}
_IN_ORDER = (
    "The names do not say before or after, so the images are paired in the order of their names: the first "
    "is before, the second after, and so on."
)


@dataclass(frozen=True)
class EditPair:
    """One image before and after the edit, both [H, W, 3] fp32 in 0..1."""

    before: Tensor
    after: Tensor
    name: str
    mask: Tensor | None = None
    """[H, W] fp32 in 0..1: the loss acts where it is 1. None where it acts everywhere."""


@dataclass(frozen=True)
class EditPairs:
    """At least one pair. The two images of a pair have one size; pairs may differ in size."""

    pairs: tuple[EditPair, ...]
    remarks: tuple[str, ...] = ()
    """Sentences about pairs that were left out, and about changes to images."""
    held_out: int | None = None
    """Index of the pair that is not learned from, unless a learning node says otherwise; None for none."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> EditPair:
        return self.pairs[index]

    def __iter__(self) -> Iterator[EditPair]:
        return iter(self.pairs)

    def without(self, index: int) -> "EditPairs":
        """All pairs but one; the same pairs if there is only one."""
        rest = tuple(pair for position, pair in enumerate(self.pairs) if position != index % len(self.pairs))
        return EditPairs(rest) if rest else self


class MixedRatiosError(PairError):
    """Before and after of a pair have different aspect ratios."""


def load_pairs(
    folder: str | Path,
    size: int | None = None,
    fit: Fit = "stop",
    strict: bool = False,
    board: Board | None = None,
    progress: Progress | None = None,
) -> EditPairs:
    """Reads the pairs of a folder, or of the folders below it; see core/pairs/layouts.py for the layouts.

    Parquet tables in the folder count before other layouts; see core/pairs/pair_tables.py for their columns.

    If before and after have one aspect ratio, both get the smaller one's size. Without ``size``, sides are
    cropped to multiples of 8, and images of more than 1024 x 1024 pixels are scaled down to that.

    Args:
        folder: where the images are; or a parquet table.
        size: scale every image to cover a square of this many pixels, and crop it to the square.
        fit: what to do with a pair of two aspect ratios.
        strict: stop at the first pair that cannot be read. Otherwise such pairs are left out and named in
            ``remarks``.
        board: which pairs to skip, to swap and to hold out, and their order.
        progress: called after each pair.

    Raises:
        PairError: the folder does not exist, the size is out of range, there are no pairs or none that can be
            read, a pair has two aspect ratios, two images have one name, or a list is malformed.
    """
    if size is not None and not MIN_SIDE <= size <= _MOST_SIDE:
        raise PairError(
            f"Size: {size} x {size} pixels are not possible. Choose between {MIN_SIDE} and {_MOST_SIDE}, "
            "preferably the size that the model was trained at."
        )
    folder = Path(folder)
    refused = Refusals()
    found, layout = find_listed(folder, refused.add)
    arranged = arrange(found, board or Board())
    pairs: list[EditPair] = []
    counts: Counter[str] = Counter()
    remarks = [*arranged.remarks, *([_IN_ORDER] if layout == "order" and found else [])]
    held_out = None
    try:
        for number, listed in enumerate(arranged.pairs, 1):
            if strict and refused.count:
                break
            try:
                pair, changes, file_remarks = _read(listed, size, fit)
            except MixedRatiosError:
                raise
            except PairError as error:
                refused.add(error)
            else:
                if listed is arranged.held_out:
                    held_out = len(pairs)
                pairs.append(pair)
                counts.update(changes)
                remarks += file_remarks
            if progress is not None:
                progress(number, len(arranged.pairs))
    finally:
        forget_columns()
    if refused.first and (strict or not pairs):
        raise refused.first
    sentences = (*remarks, *_left_out(refused, len(pairs)), *_changed(counts))
    return EditPairs(tuple(pairs), tuple(map(shown_text, sentences)), held_out)


def find_listed(folder: Path, refuse: Refuse) -> tuple[list[ListedPair], Layout]:
    """The files of the pairs of a folder, and its layout.

    Raises:
        PairError: there is no such folder, no pairs or too many, a malformed list, or too much to refuse.
    """
    is_table = os.path.isfile(folder) and folder.suffix == ENDING
    if not os.path.isdir(folder) and not is_table:
        fault = "is a file" if os.path.isfile(folder) else "does not exist"
        raise PairError(
            f"Pairs folder '{str(folder)[:200]}' {fault}. Put the images in a folder and give its path."
        )
    refused = Refusals()

    def count(error: PairError) -> None:
        refused.add(error)
        if refused.count > _MOST_ENTRIES:
            fault = f"more than {_MOST_ENTRIES} images or entries cannot be used"
            raise PairError(f"Pairs folder '{folder.name}': {fault}. The first: {refused.texts[0]}")
        refuse(error)

    tables = table_files(folder)
    if tables:
        found, layout = pairs_of_tables(tables, count, MAX_PAIRS), "table"
    else:
        found, layout = pairs_of(folder, count, _MOST_ENTRIES)
    if not found and not refused.count:
        raise PairError(
            f"Pairs folder '{folder.name}' holds no pairs. Name the images 0_0.png (before) and 0_1.png "
            "(after), 1_0.png and 1_1.png and so on, or use sub-folders before/ and after/ with equal "
            "names, or a pairs.json."
        )
    if len(found) > MAX_PAIRS:
        raise PairError(
            f"Pairs folder '{folder.name}' holds {len(found)} pairs, at most {MAX_PAIRS} can be learned "
            "from. Choose the clearest ones."
        )
    return found, layout


def make_pairs(
    before: Tensor | Sequence[Tensor],
    after: Tensor | Sequence[Tensor],
    names: Sequence[str] | None = None,
    fit: Fit = "stop",
) -> EditPairs:
    """Makes pairs of images in memory. If before and after have one aspect ratio, both get the smaller one's
    size.

    Args:
        before, after: batches that ``image_batch`` takes (transparency is dropped), or several batches, which
            may differ in size.
        names: names for messages, one for each pair; numbers if not given.
        fit: what to do with a pair of two aspect ratios.

    Raises:
        PairError: different numbers of images, two aspect ratios within a pair, or no images.
    """
    images_before = _images_of(before)
    images_after = _images_of(after)
    counts = [len(images_before), len(images_after)]
    if counts[0] != counts[1]:
        raise PairError(
            f"Pairs: {counts[0]} images before but {counts[1]} after. Every image needs its partner, in the "
            "same order: give batches of equal length."
        )
    if not 1 <= counts[0] <= MAX_PAIRS:
        raise PairError(f"Pairs: {counts[0]} pairs were given, between 1 and {MAX_PAIRS} are needed.")
    names = names or [str(number) for number in range(counts[0])]
    pairs: list[EditPair] = []
    changed: Counter[str] = Counter()
    for name, first, second in zip(names, images_before, images_after, strict=True):
        first, second, changes = alike(name, first, second, fit)
        pairs.append(check_pair(name, first, second))
        changed.update(changes)
    return EditPairs(tuple(pairs), _changed(changed))


def check_pair(name: str, before: Tensor, after: Tensor) -> EditPair:
    """Makes a pair of two images [H, W, 3].

    Raises:
        PairError: the sizes differ, a side is below 16 pixels, or a value is not finite.
    """
    if before.shape != after.shape:
        raise PairError(
            f"Pair '{name}': before is {before.shape[1]} x {before.shape[0]}, after is {after.shape[1]} x "
            f"{after.shape[0]}. Both images of a pair must have the same size: crop or scale them alike."
        )
    if min(before.shape[:2]) < MIN_SIDE:
        raise PairError(
            f"Pair '{name}' is {before.shape[1]} x {before.shape[0]}: each side needs at least {MIN_SIDE} "
            "pixels."
        )
    if not (torch.isfinite(before).all() and torch.isfinite(after).all()):
        raise PairError(f"Pair '{name}' holds values that are not finite. Save the images again.")
    return EditPair(before, after, name)


def alike(
    name: str, before: Tensor, after: Tensor, fit: Fit = "stop"
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Brings before and after [H, W, 3] to one size, the smaller one's.

    A difference of less than 8 pixels comes from a VAE that trimmed the edges: the larger image is cropped to
    its middle.

    Returns:
        Both images, and the changes: keys of ``_CHANGES``.

    Raises:
        MixedRatiosError: two aspect ratios, and ``fit`` is "stop".
    """
    sizes = [_size(before), _size(after)]
    if sizes[0] == sizes[1]:
        return before, after, ()
    trimmed = vae_cropped(before), vae_cropped(after)
    if _size(trimmed[0]) == _size(trimmed[1]):
        return *trimmed, ("trimmed",)
    size = min(sizes, key=lambda each: each[0] * each[1])
    if same_ratio(*sizes):
        return scaled(before, size), scaled(after, size), ("scaled",)
    if fit == "stop":
        raise mixed_ratios(name, *sizes)
    fitted = covering if fit == "crop" else padded
    return fitted(before, size), fitted(after, size), (fit,)


def find_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """(name, before, after) of every pair of a folder. Opens no image.

    Raises:
        PairError: an image without its partner, two images of one name, a malformed list, or a name in it
            that is not a file of the folder.
    """
    return [(pair.name, cast(Path, pair.before), cast(Path, pair.after)) for pair in pairs_in(folder)]


def _read(
    listed: ListedPair, size: int | None, fit: Fit
) -> tuple[EditPair, tuple[str, ...], tuple[str, ...]]:
    """A pair at its working size, the changes made to it, and remarks about its files."""
    files = listed.before, listed.after
    opened = [_open(file) if size is None else _open_near(file, size) for file in files]
    if size is not None and not same_ratio(opened[0].size, opened[1].size):
        # Two aspect ratios are compared pixel by pixel.
        opened = [_open(file) for file in files]
    before, after, changes = _at_size(listed.name, opened, size, fit)
    remarks = (*opened[0].remarks, *opened[1].remarks)
    pair = check_pair(listed.name, before, after)
    if listed.mask is not None:
        mask, side = mask_like(listed, listed.mask, opened)
        both = [mask, opened[1]] if side == 0 else [opened[0], mask]
        fitted = _at_size(listed.name, both, size, fit)
        pair = replace(pair, mask=check_white(listed, (fitted[1] if side else fitted[0]).mean(dim=-1)))
        changes = (*changes, "masked")
    return pair, changes, remarks


def _at_size(
    name: str, opened: Sequence[OpenedImage], size: int | None, fit: Fit
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Before and after at their working size, and the changes made to them."""
    if size is not None and same_ratio(opened[0].size, opened[1].size):
        before, after = (
            from_image(ImageOps.fit(on_white(each.image), (size, size), Image.Resampling.LANCZOS))
            for each in opened
        )
        return before, after, ()
    images = [from_image(on_white(each.image)) for each in opened]
    before, after, changes = alike(name, images[0], images[1], fit)
    height, width = _size(before)
    if size is not None:
        return covering(before, (size, size)), covering(after, (size, size)), changes
    if height * width > _MOST_PIXELS:
        shrunk = _shrunk_side(height, height * width), _shrunk_side(width, height * width)
        return scaled(before, shrunk), scaled(after, shrunk), (*changes, "shrunk")
    if vae_cropped(before) is not before and min(height, width) >= MIN_SIDE:
        return vae_cropped(before), vae_cropped(after), (*changes, "trimmed")
    return before, after, changes


def _shrunk_side(side: int, pixels: int) -> int:
    """A side of an image of ``pixels``, scaled to ``_MOST_PIXELS`` and rounded to the VAE stride."""
    return max(round(side * math.sqrt(_MOST_PIXELS / pixels) / VAE_STRIDE), 1) * VAE_STRIDE


def _open(place: ImagePlace) -> OpenedImage:
    return open_image(readable(place), place.name)


def _open_near(place: ImagePlace, size: int) -> OpenedImage:
    """Opens an image, at a smaller scale if it is far larger than a square of ``size`` pixels."""
    return open_image(readable(place), place.name, lambda width, height: min(width, height) // (2 * size))


def _images_of(batches: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Every image [H, W, 3] of one or several batches."""
    images: list[Tensor] = []
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        images += [image[..., :3].float().cpu() for image in image_batch(batch, "Pairs", PairError)]
    return images


def _size(image: Tensor) -> Size:
    return image.shape[0], image.shape[1]


def mixed_ratios(name: str, before: Size, after: Size) -> MixedRatiosError:
    """The error of a pair of two aspect ratios."""
    return MixedRatiosError(
        f"Pair '{name}': before is {before[1]} x {before[0]}, after is {after[1]} x {after[0]}, which is "
        "another aspect ratio. Crop or scale both alike, or set fit to crop or pad."
    )


def _left_out(refused: Refusals, left: int) -> tuple[str, ...]:
    if not refused.count:
        return ()
    return (
        *(f"Left out: {text}" for text in refused.texts),
        f"{_pairs(refused.count)} left out, {_pairs(left)} remain{'s' if left == 1 else ''}.",
    )


def _changed(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{_pairs(counts[change])}: {text}." for change, text in _CHANGES.items() if counts[change])


def _pairs(count: int) -> str:
    return f"{count} pair{'s' * (count != 1)}"
