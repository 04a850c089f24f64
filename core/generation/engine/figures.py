"""Counts of a build: planned, and made so far."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .build import Build, wrong_part
from .stage import ID, Row
from .tables import DETAIL, PARENT, REASON, comes_from

# Refused rows whose details are kept for the report, for each reason.
_MOST_EXAMPLES = 3


@dataclass(frozen=True)
class StageCount:
    """What a stage made of its rows."""

    name: str
    parts: int
    """Finished parts."""
    rows: int
    """Rows that it was given."""
    kept: int
    """Rows of these that were not refused."""
    out: int
    """Rows that came out: more than ``kept`` where rows branch."""
    refused: tuple[tuple[str, int], ...]
    """Reasons and their counts, most first."""
    examples: tuple[tuple[str, str, str], ...]
    """Some refusals: reason, row, detail."""


@dataclass(frozen=True)
class StagePlan:
    """What a stage is expected to do."""

    name: str
    rows: int
    out: int
    calls: int
    """Calls of a language model."""
    cost: float
    """What the calls cost, in the unit of the prices."""


def plan(build: Build, prices: tuple[float, float] = (0.0, 0.0)) -> list[StagePlan]:
    """Returns the expected rows, calls and cost of each stage.

    Args:
        build: the build; nothing of it needs to be made.
        prices: of a million tokens, in and out.
    """
    rows = float(build.source.count)
    plans = []
    for stage in build.stages:
        calls = rows * stage.calls
        cost = sum(calls * tokens * price for tokens, price in zip(stage.call_tokens, prices, strict=True))
        out = rows * stage.keeps * stage.branches
        plans.append(StagePlan(stage.name, round(rows), round(out), round(calls), cost / 1e6))
        rows = out
    return plans


def count_rows(build: Build) -> list[StageCount]:
    """Counts what each stage has made so far, the source first. Checks that no row is lost or doubled.

    Raises:
        BuildError: a part is damaged, or a row is lost or doubled.
    """
    names = ("source", *(stage.name for stage in build.stages))
    counters = [_Counter(name) for name in names]
    unfinished = [set(build.unfinished_parts(number)) for number in range(len(names))]
    for part in range(build.parts):
        before: list[str] | None = None
        given = min(build.rows_per_part, build.source.count - part * build.rows_per_part)
        for number, counter in enumerate(counters):
            if part in unfinished[number]:
                # What a later stage made of a part that somebody deleted is checked when it is made again.
                given = -1
                continue
            own = build.read(number, part, ())
            refused = own.table.filter(own.table[REASON].is_valid()).to_pylist()
            kept = own.kept.select([ID, PARENT]).to_pylist()
            if given >= 0:
                _check_part(build.part_file(number, part), given, kept, refused, before)
            counter.add(kept, refused)
            before = [row[ID] for row in kept]
            given = len(before)
    return [counter.count for counter in counters]


class _Counter:
    """Counts the rows of a stage part by part."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._parts = self._rows = self._kept = self._out = 0
        self._reasons: Counter[str] = Counter()
        self._examples: list[tuple[str, str, str]] = []

    def add(self, kept: Sequence[Row], refused: Sequence[Row]) -> None:
        """Counts a part."""
        parents = {row[PARENT] for row in kept}
        self._parts += 1
        self._rows += len(parents) + len(refused)
        self._kept += len(parents)
        self._out += len(kept)
        for row in refused:
            self._reasons[row[REASON]] += 1
            if self._reasons[row[REASON]] <= _MOST_EXAMPLES:
                self._examples.append((row[REASON], row[ID], row[DETAIL]))

    @property
    def count(self) -> StageCount:
        """The counts so far."""
        most_first = tuple(sorted(self._reasons.items(), key=lambda item: (-item[1], item[0])))
        figures = (self._parts, self._rows, self._kept, self._out)
        return StageCount(self._name, *figures, most_first, tuple(self._examples))


def _check_part(
    file: Path, given: int, kept: Sequence[Row], refused: Sequence[Row], before: list[str] | None
) -> None:
    """Checks that each row that a stage was given came out, or was refused, once.

    Args:
        file: the part.
        given: number of the rows that the stage was given.
        kept: the rows that came out.
        refused: the rows that were refused.
        before: ids of the rows that the stage was given; None for the source.
    """
    numbers = [*{row[PARENT] for row in kept}, *(row[PARENT] for row in refused)]
    if sorted(numbers) != list(range(given)):
        raise wrong_part(file, f"it does not hold each of its {given} rows once")
    for row in (*kept, *refused):
        if before is not None and not comes_from(row[ID], before[row[PARENT]]):
            raise wrong_part(file, f"row '{row[ID]}' does not come from the stage before")
