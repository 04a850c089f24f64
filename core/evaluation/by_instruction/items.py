"""Items of benchmarks without training pairs: an image with one instruction or a session of several."""

from dataclasses import dataclass

from PIL import Image, ImageOps
from torch import Tensor

from ...storage.image_tensors import fit_to_multiple, from_image, to_image

# InstructPix2Pix and MagicBrush scale images to multiples of this.
_MULTIPLE = 64


@dataclass(frozen=True)
class Turn:
    """One instruction for one image, and the data that outputs are compared with."""

    words: str
    """The instruction."""
    source: Tensor
    """[H, W, 3] in 0..1, in its original size."""
    truth: Tensor | None = None
    """The ground truth of the edit, [H, W, 3]; None if outputs are compared with the source."""
    mask: Tensor | None = None
    """[H, W] of the source's size, 1 = edit here."""
    caption: str | None = None
    """Describes the image after the edit; without it, metrics with captions are left out."""
    caption_before: str | None = None
    """Describes the source."""

    @property
    def reference(self) -> Tensor:
        """The image that outputs are compared with."""
        return self.source if self.truth is None else self.truth


@dataclass(frozen=True)
class Item:
    """One or several turns. The source of each turn but the first is the ground truth of the turn before."""

    name: str
    scope: str
    turns: tuple[Turn, ...]

    @property
    def images(self) -> int:
        """Number of images that a method makes, see ``turn_of``."""
        return 2 * len(self.turns) - 1

    def turn_of(self, image: int) -> int:
        """Returns the index of the turn that a method's image belongs to.

        The images of an item with n turns are, in order: n edits of the turns' own sources, then n - 1 edits
        of the output of the turn before, from the second turn on. So the last image is always the end of the
        session.
        """
        return image if image < len(self.turns) else image - len(self.turns) + 1


def editor_input(image: Tensor, side: int | None) -> Tensor:
    """Scales an image as the scripts of InstructPix2Pix and MagicBrush do.

    The longer side becomes about ``side`` pixels, both sides become multiples of 64, and the rest is cropped
    evenly.

    Args:
        image: [H, W, 3] in 0..1.
        side: pixels; None only scales both sides to multiples of 8.

    Returns:
        The same tensor if the size already fits.
    """
    if side is None:
        return fit_to_multiple(image)
    height, width = image.shape[:2]
    short = min(height, width)
    long = max(height, width)
    # Integer arithmetic, so that 511.9999 never becomes 448.
    new_short = -(-short * side // (_MULTIPLE * long)) * _MULTIPLE
    new_long = long * new_short // (short * _MULTIPLE) * _MULTIPLE
    new_size = (new_long, new_short) if width == long else (new_short, new_long)
    if (width, height) == new_size:
        return image
    return from_image(ImageOps.fit(to_image(image), new_size, Image.Resampling.LANCZOS))


def resize_like(image: Tensor, like: Tensor) -> Tensor:
    """Scales an 8-bit image [H, W, 3] to the size of another, bicubic as in MagicBrush's evaluation."""
    if image.shape == like.shape:
        return image
    return from_image(to_image(image).resize((like.shape[1], like.shape[0]), Image.Resampling.BICUBIC))
