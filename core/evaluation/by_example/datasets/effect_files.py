"""An effect whose pairs are image files."""

from dataclasses import dataclass
from pathlib import Path

from ....errors import EvaluationError, PairError
from ....pairs.pairs import EditPairs, check_pair
from ....storage.image_files import read_image
from ..effects import Captions, Effect, Scope

Files = tuple[tuple[str, Path, Path], ...]
"""(name, before, after) of pairs."""

SIDE = 512
"""Pixels; the papers compare at 512 x 512."""


@dataclass(frozen=True)
class EffectFiles:
    """The files of an effect, an ``EffectSource``."""

    name: str
    scope: Scope
    words: str
    train: Files
    test: Files
    side: int | None = SIDE
    captions: tuple[Captions, ...] = ()
    """Of the test pairs; empty if the data set has none."""

    def load(self) -> Effect:
        """Reads the images as 8-bit RGB, upright, transparent areas white.

        Images are scaled to cover a square of ``side`` pixels and cropped at the center.

        Raises:
            EvaluationError: an image cannot be read, or the images of a pair differ in size.
        """
        train, test = self._pairs(self.train), self._pairs(self.test)
        return Effect(self.name, self.scope, self.words, train, test, self.captions)

    def _pairs(self, files: Files) -> EditPairs:
        pairs = []
        try:
            for name, before, after in files:
                pairs.append(check_pair(name, read_image(before, self.side), read_image(after, self.side)))
        except PairError as error:
            raise EvaluationError(f"Effect '{self.name}': {error}") from error
        return EditPairs(tuple(pairs))


def check_images(files: Files, side: int | None) -> None:
    """Opens the images now, so that a long run does not fail on them later.

    Args:
        files: the images.
        side: as in ``EffectFiles``. None keeps their size; then the sides must be multiples of 8.

    Raises:
        PairError: an image is empty or damaged, a pair has two sizes, or a size is not possible.
    """
    for name, *paths in files:
        sizes = []
        for path in paths:
            if not path.stat().st_size:
                raise PairError(f"Image '{path.name}' is empty (0 bytes). Copy it again.")
            height, width = read_image(path).shape[:2]
            sizes.append((width, height))
        if sizes[0] != sizes[1]:
            raise PairError(
                f"Pair '{name}': before is {sizes[0][0]} x {sizes[0][1]}, "
                f"after is {sizes[1][0]} x {sizes[1][1]}. Crop or scale both alike."
            )
        if side is None and (sizes[0][0] % 8 or sizes[0][1] % 8):
            raise PairError(
                f"Pair '{name}' is {sizes[0][0]} x {sizes[0][1]}: sides must be multiples of 8. "
                "Give a size, such as --size 512."
            )
