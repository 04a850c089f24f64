"""Before/after pairs: read from a folder or made from images in memory, brought to one size, and checked before anything is learned from them."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import PairError
from ..storage.image_files import OpenedImage, open_image
from ..storage.image_sizes import VAE_STRIDE, Size, covering, padded, same_ratio, scaled, vae_cropped
from ..storage.image_tensors import from_image, image_batch, on_white, to_image
from .layouts import ListedPair, pairs_below, pairs_in

MAX_PAIRS = 1000
MIN_SIDE = 16
_MOST_SIDE = 4096
_MOST_PIXELS = 1024 * 1024
"""Of an image whose size is not chosen: the largest editing models were made for so many."""
_MAX_LISTED = 20
"""Pairs that were left out and are told one by one; all are counted."""
_THUMBNAIL_SIDE = 128

Fit = Literal["stop", "crop", "pad"]
"""What becomes of a pair whose images have different aspect ratios: an error, the middle of both, or both whole with what lacks filled up."""
FITS: tuple[Fit, ...] = get_args(Fit)

_DONE = {
    "scaled": "before and after have two sizes: the larger image is scaled to the smaller one",
    "trimmed": "sides are no multiples of 8: the middle of both images is taken",
    "shrunk": "images of more than 1024 x 1024 pixels are scaled down to that many; choose a size to learn at another",
    "crop": "before and after have two aspect ratios: the larger image is scaled and cropped to the smaller one",
    "pad": "before and after have two aspect ratios: the larger image is scaled into the smaller one's size, and its border repeated around it",
}
"""What can be done to a pair -> what people are told."""


@dataclass(frozen=True)
class EditPair:
    """One image before and after the edit, both [H, W, 3] fp32 in 0..1."""

    before: Tensor
    after: Tensor
    name: str


@dataclass(frozen=True)
class EditPairs:
    """At least one pair; every pair's two images have one size, which may differ from pair to pair."""

    pairs: tuple[EditPair, ...]
    remarks: tuple[str, ...] = ()
    """What was left out, and what was done to images, in sentences."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> EditPair:
        return self.pairs[index]

    def __iter__(self) -> Iterator[EditPair]:
        return iter(self.pairs)

    def without(self, index: int) -> "EditPairs":
        """All but one pair, held out to watch learning; itself when it is the only pair."""
        rest = tuple(pair for position, pair in enumerate(self.pairs) if position != index % len(self.pairs))
        return EditPairs(rest) if rest else self


class MixedRatiosError(PairError):
    """Before and after of a pair have different aspect ratios."""


def load_pairs(
    folder: str | Path, size: int | None = None, fit: Fit = "stop", strict: bool = False
) -> EditPairs:
    """Read the pairs of a folder, or of the folders below it; see :mod:`.layouts` for how they may lie there.

    Before and after of one aspect ratio are brought to the smaller one's size. Without ``size``, sides are cropped to multiples of 8,
    and images of more than 1024 x 1024 pixels scaled down to that many.

    Args:
        folder: where the images are.
        size: when given, every image is scaled to cover a square of this many pixels and cropped at its centre.
        fit: what becomes of a pair whose images have different aspect ratios.
        strict: stop at the first pair that cannot be read. Otherwise it is left out and told in ``remarks``, as long as one is left.

    Raises:
        PairError: no folder, a size out of range, no pairs, none that can be read, different aspect ratios within a pair, two images of one name, a list
            that is malformed.
    """
    if size is not None and not MIN_SIDE <= size <= _MOST_SIDE:
        raise PairError(
            f"Size: {size} x {size} pixels are not possible. Choose between {MIN_SIDE} and {_MOST_SIDE}, best what the model was made for."
        )
    folder = Path(folder)
    if not os.path.isdir(folder):
        fault = "is a file" if os.path.isfile(folder) else "does not exist"
        raise PairError(
            f"Pairs folder '{str(folder)[:200]}' {fault}. Put the images in a folder and give its path."
        )
    refused: list[PairError] = []
    found = pairs_below(folder, refused.append)
    if not found and not refused:
        raise PairError(
            f"Pairs folder '{folder.name}' holds no pairs. Name the images 0_0.png (before) and 0_1.png (after), 1_0.png and 1_1.png and so on, "
            "or use sub-folders before/ and after/ with equal names, or a pairs.json."
        )
    if len(found) > MAX_PAIRS:
        raise PairError(
            f"Pairs folder '{folder.name}' holds {len(found)} pairs, at most {MAX_PAIRS} can be learned from. Choose the clearest ones."
        )
    pairs: list[EditPair] = []
    done: Counter[str] = Counter()
    remarks: list[str] = []
    for listed in found:
        if strict and refused:
            break
        try:
            pair, deeds, said = _read(listed, size, fit)
        except MixedRatiosError:
            raise
        except PairError as error:
            refused.append(error)
        else:
            pairs.append(pair)
            done.update(deeds)
            remarks += said
    if refused and (strict or not pairs):
        raise refused[0]
    return EditPairs(tuple(pairs), (*remarks, *_left_out(refused, len(pairs)), *_told(done)))


def make_pairs(
    before: Tensor | Sequence[Tensor],
    after: Tensor | Sequence[Tensor],
    names: Sequence[str] | None = None,
    fit: Fit = "stop",
) -> EditPairs:
    """Pairs from images in memory. Before and after of one aspect ratio are brought to the smaller one's size.

    Args:
        before, after: what :func:`~..storage.image_tensors.image_batch` takes (transparency is dropped); or several of them, which may differ in size.
        names: names for messages, one for each pair; numbers when not given.
        fit: what becomes of a pair whose images have different aspect ratios.

    Raises:
        PairError: different numbers of images, different aspect ratios within a pair, or no images at all.
    """
    sides = [_images_of(batches) for batches in (before, after)]
    counts = [len(side) for side in sides]
    if counts[0] != counts[1]:
        raise PairError(
            f"Pairs: {counts[0]} images before but {counts[1]} after. Every image needs its twin, in the same order: give batches of equal length."
        )
    if not 1 <= counts[0] <= MAX_PAIRS:
        raise PairError(f"Pairs: {counts[0]} pairs were given, between 1 and {MAX_PAIRS} are needed.")
    pairs, done = [], Counter[str]()
    for name, first, second in zip(names or map(str, range(counts[0])), *sides, strict=True):
        first, second, deeds = alike(name, first, second, fit)
        pairs.append(check_pair(name, first, second))
        done.update(deeds)
    return EditPairs(tuple(pairs), _told(done))


def thumbnail(pairs: EditPairs) -> Image.Image:
    """Before and after of the first pair, side by side."""
    halves = [
        to_image(image).resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        for image in (pairs[0].before, pairs[0].after)
    ]
    both = Image.new("RGB", (2 * _THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    for index, half in enumerate(halves):
        both.paste(half, (index * _THUMBNAIL_SIDE, 0))
    return both


def check_pair(name: str, before: Tensor, after: Tensor) -> EditPair:
    """A pair of two images [H, W, 3].

    Raises:
        PairError: sizes that differ, a side below 16 pixels, values that are not finite.
    """
    if before.shape != after.shape:
        raise PairError(
            f"Pair '{name}': before is {before.shape[1]} x {before.shape[0]}, after is {after.shape[1]} x {after.shape[0]}. "
            "Both images of a pair must have the same size: crop or scale them alike."
        )
    if min(before.shape[:2]) < MIN_SIDE:
        raise PairError(
            f"Pair '{name}' is {before.shape[1]} x {before.shape[0]}: each side needs at least {MIN_SIDE} pixels."
        )
    if not (torch.isfinite(before).all() and torch.isfinite(after).all()):
        raise PairError(f"Pair '{name}' holds values that are not finite. Save the images again.")
    return EditPair(before, after, name)


def alike(
    name: str, before: Tensor, after: Tensor, fit: Fit = "stop"
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Before and after of a pair [H, W, 3] at one size: the smaller one's. An edit that lost an edge of less than 8 pixels in a VAE lies in the middle of its
    source.

    Returns:
        Both, and what was done: keys for remarks.

    Raises:
        MixedRatiosError: different aspect ratios, and ``fit`` is "stop".
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
        raise _mixed(name, *sizes)
    fitted = covering if fit == "crop" else padded
    return fitted(before, size), fitted(after, size), (fit,)


def find_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """(name, before, after) of every pair of a folder; nothing is opened.

    Raises:
        PairError: a missing twin, two images of one name, a malformed list, a name in it that is no file of the folder.
    """
    return [(pair.name, pair.before, pair.after) for pair in pairs_in(folder)]


def _read(
    listed: ListedPair, size: int | None, fit: Fit
) -> tuple[EditPair, tuple[str, ...], tuple[str, ...]]:
    """A pair at its working size, what was done to it, and what is to be said of its files."""
    files = listed.before, listed.after
    if size is not None:
        opened = [_open_near(file, size) for file in files]
        if same_ratio(opened[0].size, opened[1].size):
            before, after = (
                from_image(ImageOps.fit(on_white(each.image), (size, size), Image.Resampling.LANCZOS))
                for each in opened
            )
            return check_pair(listed.name, before, after), (), (*opened[0].remarks, *opened[1].remarks)
    opened = [open_image(file, file.name) for file in files]
    before, after, deeds = alike(
        listed.name, from_image(on_white(opened[0].image)), from_image(on_white(opened[1].image)), fit
    )
    if size is not None:
        before, after = covering(before, (size, size)), covering(after, (size, size))
    elif math.prod(_size(before)) > _MOST_PIXELS:
        height, width = (
            max(round(side * math.sqrt(_MOST_PIXELS / math.prod(_size(before))) / VAE_STRIDE), 1) * VAE_STRIDE
            for side in _size(before)
        )
        before, after, deeds = (
            scaled(before, (height, width)),
            scaled(after, (height, width)),
            (*deeds, "shrunk"),
        )
    elif vae_cropped(before) is not before and min(_size(before)) >= MIN_SIDE:
        before, after, deeds = vae_cropped(before), vae_cropped(after), (*deeds, "trimmed")
    return check_pair(listed.name, before, after), deeds, (*opened[0].remarks, *opened[1].remarks)


def _open_near(file: Path, size: int) -> OpenedImage:
    """An image that is decoded smaller where it is far larger than a square of so many pixels."""
    return open_image(file, file.name, lambda width, height: min(width, height) // (2 * size))


def _images_of(batches: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Every image [H, W, 3] of a batch, or of several."""
    given = [batches] if isinstance(batches, Tensor) else list(batches)
    return [
        image[..., :3].float().cpu() for batch in given for image in image_batch(batch, "Pairs", PairError)
    ]


def _size(image: Tensor) -> Size:
    return image.shape[0], image.shape[1]


def _mixed(name: str, before: Size, after: Size) -> MixedRatiosError:
    return MixedRatiosError(
        f"Pair '{name}': before is {before[1]} x {before[0]}, after is {after[1]} x {after[0]}, which is another aspect ratio. Crop or scale both alike, or "
        "set fit to crop or pad."
    )


def _left_out(refused: Sequence[PairError], left: int) -> tuple[str, ...]:
    if not refused:
        return ()
    return (
        *(f"Left out: {error}" for error in refused[:_MAX_LISTED]),
        f"{_pairs(len(refused))} left out, {_pairs(left)} remain{'s' if left == 1 else ''}.",
    )


def _told(done: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{_pairs(done[deed])}: {text}." for deed, text in _DONE.items() if done[deed])


def _pairs(count: int) -> str:
    return f"{count} pair{'s' * (count != 1)}"
