"""Plans, runs and reports builds."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.errors import BuildError
from ...core.evaluation.reports.text_table import aligned_table
from ...core.generation.engine.build import ANSWERS, Build
from ...core.generation.engine.export import export_table
from ...core.generation.engine.figures import StageCount, count_rows, plan
from ...core.generation.engine.report import write_report
from ...core.generation.engine.run import Workers, run_build
from ...core.generation.engine.stored import open_build
from ...core.generation.language.cache import AnswerCache
from ...core.generation.locks import only_process
from ...core.storage.files import write_text
from ...core.storage.json_text import parse_json, read_record

_DATA_SET = "data_set.json"


@dataclass(frozen=True)
class DataSet:
    """What a build is exported as."""

    title: str
    columns: Mapping[str, Any]
    """Name in the data set -> column of the build."""
    about: Mapping[str, Any]
    """What was run, for the report."""


def run_command(
    build: Build,
    data_set: DataSet,
    options: argparse.Namespace,
    export: Callable[[Build, Sequence[StageCount]], list[Path]] | None = None,
) -> None:
    """Prints the plan of ``build plan``; otherwise runs the build, exports it and writes its report.

    The last line on stdout is one JSON object.

    Args:
        build: the build.
        data_set: what it is exported as.
        options: the shared options.
        export: writes the finished build's tables and returns them; None writes all rows as one split.
    """
    if options.plan:
        _print_plan(build, options.llm_prices)
        return
    workers = workers_of(options)
    workers.check()
    with only_process(build.folder):
        build.begin()
        write_text(json.dumps(asdict(data_set), indent=1), build.folder / _DATA_SET)
        with keeps_on_interrupt():
            run_build(build, workers, show_part)
        # A table with a wrong part is not exported.
        counts = count_rows(build)
        # Before the export, which stops if no row is left; the page says why none is.
        page = _write_report(build, counts, data_set)
        if export is None:
            files = export_table(build, data_set.columns, build.folder / "data")
        else:
            files = export(build, counts)
        _print_facts(build, counts, page, [str(file) for file in files], options.llm_prices)


def report(options: argparse.Namespace) -> None:
    """Writes the report of a build as far as it is, and prints its counts."""
    folder = Path(options.folder)
    build = open_build(folder)
    files = sorted(str(file) for file in (folder / "data").glob("*.parquet"))
    counts = count_rows(build)
    page = _write_report(build, counts, _stored_data_set(folder))
    _print_facts(build, counts, page, files, options.llm_prices)


def _stored_data_set(folder: Path) -> DataSet:
    file = folder / _DATA_SET
    try:
        data_set = read_record(DataSet, parse_json(file.read_bytes()))
        wrong = next((each for each in data_set.columns.values() if not isinstance(each, str)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is no column")
        return data_set
    except FileNotFoundError:
        # It is written after the pairs of ReasonPix2Pix are measured.
        return DataSet(folder.resolve().name, {}, {})
    except (OSError, ValueError) as error:
        raise BuildError(f"'{file}' is damaged ({error}). Run the build's own command again.") from error


def _write_report(build: Build, counts: Sequence[StageCount], data_set: DataSet) -> Path:
    return write_report(build, counts, data_set.title, data_set.about, data_set.columns)


def _print_facts(
    build: Build, counts: Sequence[StageCount], page: Path, files: list[str], prices: tuple[float, float]
) -> None:
    _print_counts(counts)
    facts = {
        "rows": counts[-1].out,
        "source_rows": counts[0].rows,
        "finished": counts[-1].parts == build.parts,
        "refused": {count.name: dict(count.refused) for count in counts if count.refused},
        "answers": {
            name: {**asdict(usage), "cost": round(usage.cost(prices), 4)}
            for name, usage in AnswerCache(build.folder / ANSWERS).usage().items()
        },
        "files": files,
        "report": str(page),
    }
    print(json.dumps(facts))


@contextlib.contextmanager
def keeps_on_interrupt() -> Iterator[None]:
    """Says after Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        print("What is made is kept. The same command continues.", file=sys.stderr)
        raise


def workers_of(options: argparse.Namespace) -> Workers:
    """Returns the workers of ``--jobs``, ``--ray`` and ``--gpus``."""
    return Workers(options.jobs, options.ray, options.gpus)


def show_part(stage: str, done: int, total: int) -> None:
    """Says on stderr how much of a stage is made."""
    print(f"{stage}: {done} of {total} parts", file=sys.stderr)


def _print_plan(build: Build, prices: tuple[float, float]) -> None:
    plans = plan(build, prices)
    rows = [(p.name, str(p.rows), str(p.out), str(p.calls), f"{p.cost:.2f}") for p in plans]
    print(aligned_table(("Stage", "Rows", "Rows out", "Calls", "Cost"), rows))
    facts = {
        "source_rows": build.source.count,
        "rows": plans[-1].out if plans else build.source.count,
        "calls": sum(each.calls for each in plans),
        "cost": round(sum(each.cost for each in plans), 4),
    }
    print(json.dumps(facts))


def _print_counts(counts: Sequence[StageCount]) -> None:
    rows = [(c.name, str(c.rows), str(c.rows - c.kept), str(c.out)) for c in counts]
    print(aligned_table(("Stage", "Rows", "Refused", "Rows out"), rows))
