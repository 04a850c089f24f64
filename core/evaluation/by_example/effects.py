"""An editing effect of a benchmark: training and test pairs."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from ...pairs.pairs import EditPairs

TRAIN_PAIRS = 10
TEST_PAIRS = 5

Scope = Literal["global", "local"]

Captions = tuple[str, str]
"""What an image shows before and after the edit."""


@dataclass(frozen=True)
class Effect:
    """Training and test pairs of one edit, and the instruction in words that comes closest to it."""

    name: str
    scope: Scope
    words: str
    train: EditPairs
    test: EditPairs
    captions: tuple[Captions, ...] = ()
    """Of the test pairs; empty if the data set has none."""

    @property
    def inputs(self) -> list[Tensor]:
        """Test images before the edit, [H, W, 3] each."""
        return [pair.before for pair in self.test]

    @property
    def truth(self) -> list[Tensor]:
        """Test images after the edit, [H, W, 3] each."""
        return [pair.after for pair in self.test]


class EffectSource(Protocol):
    """Loads an effect. Small and picklable, because workers get the source instead of the images."""

    @property
    def name(self) -> str:
        """Name, unique within a benchmark; also used as a folder name."""
        ...

    @property
    def scope(self) -> Scope:
        """``global``: the whole image changes; ``local``: a part of it."""
        ...

    @property
    def words(self) -> str:
        """The benchmark's instruction in words."""
        ...

    @property
    def train(self) -> Sized:
        """As many entries as there are training pairs; known without reading images."""
        ...

    def load(self) -> Effect:
        """Reads or draws the images; the same on every call."""
        ...
