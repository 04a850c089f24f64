"""Counts of a build: planned, and made so far."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import BuildError
from .build import Build
from .stage import ID
from .tables import DETAIL, PARENT, REASON

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
    return [_count_stage(build, number) for number in range(len(build.stages) + 1)]


def _count_stage(build: Build, number: int) -> StageCount:
    unfinished = set(build.unfinished_parts(number))
    reasons: Counter[str] = Counter()
    examples: list[tuple[str, str, str]] = []
    rows = kept = out = 0
    for part in range(build.parts):
        if part in unfinished:
            continue
        own = build.read(number, part, ())
        parents = own.parents.to_pylist()
        refused = own.table.filter(own.table[REASON].is_valid()).to_pylist()
        _check_part(build, number, part, parents, [row[PARENT] for row in refused])
        rows += len(set(parents)) + len(refused)
        kept += len(set(parents))
        out += len(parents)
        for row in refused:
            reasons[row[REASON]] += 1
            if reasons[row[REASON]] <= _MOST_EXAMPLES:
                examples.append((row[REASON], row[ID], row[DETAIL]))
    name = build.stages[number - 1].name if number else "source"
    most_first = tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    return StageCount(name, build.parts - len(unfinished), rows, kept, out, most_first, tuple(examples))


def _check_part(build: Build, number: int, part: int, kept: Sequence[int], refused: Sequence[int]) -> None:
    """Checks that each row that the stage before kept came out, or was refused, once."""
    if number:
        given = len(build.read(number - 1, part, ()).kept)
    else:
        given = min(build.rows_per_part, build.source.count - part * build.rows_per_part)
    if sorted([*set(kept), *refused]) != list(range(given)):
        raise BuildError(
            f"'{build.part_file(number, part)}' does not hold each of its {given} rows once. Delete it and "
            "run the same command again."
        )
