"""Training pairs: records whose images are still encoded, and decoded pairs cropped to a square."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from ..errors import PairError, RegionError
from ..pairs.pairs import alike, check_pair
from ..regions.mask_files import read_mask
from ..regions.masks import DARKEST_GRAY, fit_mask
from ..storage.image_files import decode_image
from ..storage.image_sizes import vae_cropped


@dataclass(frozen=True)
class ImageSource:
    """An encoded image: a file, or the bytes of a table cell."""

    content: bytes | Path
    name: str

    def read(self) -> Tensor:
        """Decodes the image. Returns [H, W, 3] fp32 in 0..1.

        Raises:
            PairError: the image cannot be read.
        """
        return decode_image(self._file(), self.name)

    def read_mask(self) -> Tensor:
        """Decodes the image as a mask. Returns [h, w] in 0..1.

        Raises:
            RegionError: the image cannot be read, or it marks no region.
        """
        return read_mask(self._file(), self.name)

    def read_bytes(self) -> bytes:
        """Returns the encoded bytes.

        Raises:
            PairError: the file cannot be read.
        """
        try:
            return self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        except OSError as error:
            raise PairError(f"Image '{self.name}' cannot be read ({error}). Restore the file.") from error

    def _file(self) -> BytesIO | Path:
        return BytesIO(self.content) if isinstance(self.content, bytes) else self.content


@dataclass(frozen=True)
class TrainingPair:
    """A decoded pair with its mask and words."""

    before: Tensor
    """[H, W, 3] fp32 in 0..1."""
    after: Tensor
    """[H, W, 3] fp32 in 0..1."""
    mask: Tensor
    """[H, W] in 0..1, 1 = the edit acts here; all ones for a free-form pair."""
    words: str

    def cropped(self, side: int, rng: Generator | None = None, flip: float = 0.0) -> "TrainingPair":
        """Scales the shorter side to ``side`` and crops a square. Images and mask get the same crop.

        Args:
            side: pixels.
            rng: draws the crop, which always contains part of the region, and the flip. None crops around
                the middle of the region and never flips.
            flip: probability of a horizontal flip.
        """
        stack = torch.cat([self.before, self.after, self.mask[..., None]], dim=2).movedim(2, 0)
        height, width = stack.shape[1:]
        if min(height, width) != side:
            if height < width:
                size = (side, max(round(width * side / height), side))
            else:
                size = (max(round(height * side / width), side), side)
            stack = functional.interpolate(stack[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        mask = stack[6]
        top = _crop_start(mask.amax(1), side, rng)
        left = _crop_start(mask.amax(0), side, rng)
        stack = stack[:, top : top + side, left : left + side]
        if rng is not None and rng.random() < flip:
            stack = stack.flip(2)
        stack = stack.movedim(0, 2).contiguous()
        return TrainingPair(stack[..., :3], stack[..., 3:6], stack[..., 6], self.words)


def _crop_start(mask_profile: Tensor, side: int, rng: Generator | None) -> int:
    """Returns where a crop starts along an axis. ``mask_profile`` is the mask's maximum at each position."""
    slack = len(mask_profile) - side
    if slack == 0:
        return 0
    marked = (mask_profile >= 0.5 * mask_profile.max()).nonzero()[:, 0]
    if rng is None:
        return min(max(int(marked[len(marked) // 2]) - side // 2, 0), slack)
    inside = int(marked[rng.integers(len(marked))])
    return int(rng.integers(max(inside - side + 1, 0), min(inside, slack) + 1))


@dataclass(frozen=True)
class PairRecord:
    """A pair as listed in the data, not decoded yet."""

    name: str
    """Shown in messages."""
    words: str
    before: ImageSource
    after: ImageSource
    mask: ImageSource | None
    reasoning: tuple[str, ...] = ()
    """Indirect instructions that ask for the same edit."""
    fault: str = ""
    """Why the pair is unusable, if that is known before decoding."""

    def read(self) -> TrainingPair:
        """Decodes and checks the pair. Images and mask with the same aspect ratio are scaled to one size.

        Raises:
            PairError: there are no words, an image cannot be read, aspect ratios differ, or the mask is
                colored or completely black.
        """
        if self.fault:
            raise PairError(self.fault)
        if not self.words.strip():
            raise PairError(f"Pair '{self.name}' has no words. Describe the edit, or remove the pair.")
        before, after, _ = alike(self.name, self.before.read(), self.after.read())
        pair = check_pair(self.name, before, after)
        mask = torch.ones(before.shape[:2]) if self.mask is None else self._read_mask(self.mask, before)
        return TrainingPair(pair.before, pair.after, mask, self.words.strip())

    def _read_mask(self, source: ImageSource, before: Tensor) -> Tensor:
        height, width = before.shape[:2]
        try:
            mask = source.read_mask()
            cropped = vae_cropped(mask)
            fits = cropped.shape == (height, width)
            mask = cropped if fits else fit_mask(mask, height, width, batch=1)[0]
        except RegionError as error:
            raise PairError(f"Pair '{self.name}': {error}") from error
        if mask.max() < DARKEST_GRAY:
            raise PairError(
                f"Pair '{self.name}': the mask is black all over. Paint white where the edit acts, "
                "or give a free-form pair no mask."
            )
        return mask
