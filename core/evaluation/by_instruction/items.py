"""One item of a benchmark without training pairs: an image and an instruction, or a session of several, and how a method did on it."""

from dataclasses import dataclass

from PIL import Image, ImageOps
from torch import Tensor

from ...storage.images import fit_to_multiple, from_image, to_image

_GRAIN = 64
"""InstructPix2Pix and MagicBrush scale images to multiples of this."""


@dataclass(frozen=True)
class Turn:
    """One instruction for one image, and what judges the result."""

    words: str
    source: Tensor
    """[H, W, 3] in 0..1, in the data's own size."""
    truth: Tensor | None = None
    """What the edit should make of it, [H, W, 3]; None where the source is what outputs are compared with."""
    mask: Tensor | None = None
    """[H, W] of the source's size, 1 = edit here."""
    caption: str | None = None
    """What the image shows after the edit; None leaves metrics with words out."""
    caption_before: str | None = None
    """What the source shows."""

    @property
    def reference(self) -> Tensor:
        """What outputs are compared with."""
        return self.source if self.truth is None else self.truth


@dataclass(frozen=True)
class Item:
    """One or several turns on an image; the source of each but the first is the truth of the one before."""

    name: str
    scope: str
    turns: tuple[Turn, ...]

    def turn_of(self, image: int) -> int:
        """Index of the turn that a method's image answers. Images are, in order: every turn from the data's own source, then every turn but the first
        from what the method made of the turn before. So the last is always the end of the session."""
        return image if image < len(self.turns) else image - len(self.turns) + 1


@dataclass(frozen=True)
class Score:
    """What one method reached on one item with one seed. Figures are in the order of :meth:`Item.turn_of`."""

    item: str
    scope: str
    """The kind of edit, or how many turns the session has."""
    method: str
    seed: int
    turns: int
    l1: tuple[float, ...]
    l2: tuple[float, ...]
    clip_i: tuple[float, ...]
    dino: tuple[float, ...] | None
    """None where no DINO was given."""
    clip_t: tuple[float | None, ...]
    """cos(E(out), E(caption)); None without a caption."""
    clip_dir: tuple[float | None, ...]
    """cos(E(out) - E(in), E(caption) - E(caption before)); None without both captions."""
    seconds: float = 0.0
    """Wall time of editing."""

    @property
    def key(self) -> tuple[str, str, int]:
        """(method, item, seed)."""
        return self.method, self.item, self.seed


def prepared(image: Tensor, side: int | None) -> Tensor:
    """An image as the editor gets it, by the rule of InstructPix2Pix's and MagicBrush's scripts: the longer side about ``side``, both sides
    multiples of 64, what does not fit cropped evenly.

    Args:
        image: [H, W, 3] in 0..1.
        side: pixels; None only scales both sides to multiples of 8.

    Returns:
        The same tensor where nothing is to be done.
    """
    if side is None:
        return fit_to_multiple(image)
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    # In whole numbers, so that 511.9999 never becomes 448.
    new_short = -(-short * side // (_GRAIN * long)) * _GRAIN
    new_long = long * new_short // (short * _GRAIN) * _GRAIN
    new_width, new_height = (new_long, new_short) if width == long else (new_short, new_long)
    if (width, height) == (new_width, new_height):
        return image
    return from_image(ImageOps.fit(to_image(image), (new_width, new_height), Image.Resampling.LANCZOS))


def resized(image: Tensor, like: Tensor) -> Tensor:
    """An 8-bit image [H, W, 3] at the size of another by bicubic scaling, as MagicBrush's evaluation does it before it compares pixels."""
    if image.shape == like.shape:
        return image
    return from_image(to_image(image).resize((like.shape[1], like.shape[0]), Image.Resampling.BICUBIC))
