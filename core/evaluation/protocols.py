"""What a benchmark run works with: sources, settings, units of work and callbacks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..errors import InstructBrushError

OutcomeWithImages = tuple[Any, tuple[Tensor, ...]]
"""An outcome and its images."""

OnOutcome = Callable[[Any, int, int], None]
"""Called with each new outcome, the number of finished outcomes and their total."""

OnSkipped = Callable[[str, InstructBrushError], None]
"""Called with the name of an unreadable source and the reason."""


class Source(Protocol):
    """An effect or item. Small and picklable, because workers get the source instead of the images."""

    @property
    def name(self) -> str:
        """Name, unique within a benchmark; also used as a folder name."""
        ...

    def load(self) -> Any:
        """Reads or draws the images; the same on every call."""
        ...


class BenchmarkSettings(Protocol):
    """Everything that determines the figures except the images. Picklable and hashable."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods to compare."""
        ...

    @property
    def device(self) -> str:
        """Device of the models."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the figures of this run whatever the method, as plain values."""
        ...

    def recipes(self) -> dict[str, dict[str, Any]]:
        """Returns what else identifies the figures of each method, as plain values.

        Outcomes name their recipe in ``recipe``. Empty if ``describe`` says everything.
        """
        ...

    def check(self, sources: Sequence[Any]) -> None:
        """Checks that the methods can run on the sources, without loading them.

        Raises:
            EvaluationError: they cannot.
        """
        ...

    def rounds(self) -> list[tuple[int, tuple[str, ...]]]:
        """Returns the seeds with the methods that run with each, in the order of work."""
        ...

    def work(self, unit: "WorkUnit", loaded: Any) -> Iterator[OutcomeWithImages]:
        """Runs the methods of a unit on what its source loaded."""
        ...


@dataclass(frozen=True)
class WorkUnit:
    """What a worker does at once: the missing methods of one effect or item with one seed."""

    source: Source
    seed: int
    methods: tuple[str, ...]


@dataclass(frozen=True)
class UnreadableSource:
    """A source that could not be loaded."""

    name: str
    error: InstructBrushError
