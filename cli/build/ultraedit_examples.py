"""``build ultraedit-examples``: a pool of examples for ``build ultraedit``, made of those written by hand."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...core.generation.engine.build import Build
from ...core.generation.engine.stage import Row
from ...core.generation.ultraedit.examples import EXAMPLE_COLUMNS
from ...core.generation.ultraedit.instructions import expansion_stage
from ..options import positive_int
from .options import OpenedModel, add_shared_options, answers_folder, language_model, model_title
from .run import DataSet, run_command


@dataclass(frozen=True)
class Questions:
    """The source of a pool: one row for each question."""

    count: int
    columns: Mapping[str, str] = field(default_factory=lambda: {"query": "integer"})
    fingerprint: str = "questions"

    def rows(self, start: int, count: int) -> Iterator[Row]:
        """Yields the numbers of the questions."""
        yield from ({"id": f"question-{n:06d}", "query": n} for n in range(start, start + count))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``build ultraedit-examples``."""
    add_shared_options(parser, source=False)
    parser.add_argument(
        "--questions", type=positive_int, default=1000,
        help="questions for 10 new examples each (default 1000)",
    )  # fmt: skip


def build(options: argparse.Namespace) -> None:
    """Plans or makes a pool of examples."""
    model = OpenedModel(language_model(options), str(answers_folder(options)))
    made = Build(Path(options.out), Questions(options.questions), (expansion_stage(model),))
    about = {"language model": model_title(options)}
    columns = {name: name for name in EXAMPLE_COLUMNS}
    run_command(made, DataSet("Examples of edits", columns, about), options)
