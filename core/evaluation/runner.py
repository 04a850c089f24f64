"""Runs a benchmark: every method on every effect or item with every seed. A stopped run can resume."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..errors import EvaluationError, UnfinishedError
from ..storage.files import check_writable
from .protocols import BenchmarkSettings, OnOutcome, OnSkipped, Source, UnreadableSource, WorkUnit
from .results import Key, ResultFolder, complete
from .workers import IN_THIS_PROCESS, Workers

# Estimated size of an outcome with its images.
_OUTCOME_BYTES = 100_000


def run(
    sources: Sequence[Source],
    settings: BenchmarkSettings,
    folder: ResultFolder,
    *,
    data: str,
    workers: Workers = IN_THIS_PROCESS,
    on_outcome: OnOutcome | None = None,
    on_skipped: OnSkipped | None = None,
) -> list[Any]:
    """Runs what is missing and returns all outcomes in the order of the sources.

    The figures do not depend on where an earlier run stopped. They depend on the number of processes only
    through the number of threads of each process.

    Args:
        sources: the effects or items.
        settings: the methods, seeds and models.
        folder: stores the outcomes, and holds those of an earlier run.
        data: identifies the images, so that a folder resumes only with the same ones.
        workers: where the work runs.
        on_outcome: called with every new outcome.
        on_skipped: called once for every source that cannot be read; its outcomes are left out. With None
            such a source ends the run.

    Raises:
        UnfinishedError: the time of the workers is over. Finished outcomes are kept.
        EvaluationError: two sources have the same name, a method cannot run on a source, the folder holds
            another run, a worker died, or the ray package is missing.
        StorageError: the folder cannot be written to, or the disk is full. Finished outcomes are kept.
        InstructBrushError: any error of a method.
    """
    workers.check()
    _check_names(sources)
    settings.check(sources)
    folder.begin({"data": data, **settings.describe()})
    finished = folder.made_by(settings.recipes(), settings.methods)
    keys = keys_of(sources, settings)
    done = sum(key in finished for key in keys)
    check_writable(folder.path / "results.json", _OUTCOME_BYTES * (len(keys) - done))
    skipped: set[str] = set()
    for result in workers.run(_missing_units(sources, settings, finished), settings, folder):
        if isinstance(result, UnreadableSource):
            if on_skipped is None:
                raise result.error
            if result.name not in skipped:
                on_skipped(result.name, result.error)
            skipped.add(result.name)
            continue
        finished[result.key] = result
        done += 1
        if on_outcome is not None:
            on_outcome(result, done, len(keys))
    wanted = [key for key in keys if key[1] not in skipped]
    if workers.seconds is not None and any(key not in finished for key in wanted):
        raise UnfinishedError(
            f"Benchmark: stopped after {workers.seconds:g} s with {done} of {len(keys)} results, which are "
            "kept. Run the same command again to continue."
        )
    return complete(finished, wanted)


def keys_of(sources: Sequence[Source], settings: BenchmarkSettings) -> list[Key]:
    """The keys of all outcomes of a run, in their order."""
    return [
        (method, source.name, seed)
        for source in sources
        for seed, methods in settings.rounds()
        for method in methods
    ]


def _check_names(sources: Sequence[Source]) -> None:
    # Sources of one name would share their results.
    counts = Counter(source.name for source in sources)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise EvaluationError(
            f"Benchmark: {counts[twice]} of its effects or items are called '{twice}', so they would share "
            "their results. Give each a name of its own."
        )


def _missing_units(
    sources: Sequence[Source], settings: BenchmarkSettings, finished: dict[Key, Any]
) -> list[WorkUnit]:
    # Seed after seed, so that a run in several sittings soon has every effect.
    units = []
    for seed, methods in settings.rounds():
        for source in sources:
            missing = tuple(method for method in methods if (method, source.name, seed) not in finished)
            if missing:
                units.append(WorkUnit(source, seed, missing))
    return units
