"""One editing effect of a benchmark: what a method learns from and is judged by."""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from ...pairs.pairs import EditPairs

TRAIN_PAIRS, TEST_PAIRS = 10, 5

Scope = Literal["global", "local"]


@dataclass(frozen=True)
class Effect:
    """Training and test pairs of one edit, and the words that come closest to it."""

    name: str
    scope: Scope
    words: str
    train: EditPairs
    test: EditPairs

    @property
    def inputs(self) -> list[Tensor]:
        """Test images before the edit, [H, W, 3] each."""
        return [pair.before for pair in self.test]

    @property
    def truth(self) -> list[Tensor]:
        """What the edit should make of them."""
        return [pair.after for pair in self.test]


class EffectSource(Protocol):
    """Where an effect comes from. Small and picklable: it travels to other processes and machines, its images do not."""

    @property
    def name(self) -> str:
        """Name, unique within a benchmark; also a folder's name."""
        ...

    @property
    def scope(self) -> Scope:
        """``global``: the whole picture changes; ``local``: a part of it."""
        ...

    @property
    def words(self) -> str:
        """The benchmark's instruction in words."""
        ...

    def load(self) -> Effect:
        """Read or draw the images; the same every time."""
        ...
