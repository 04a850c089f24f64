"""Compares the tables of README.md and docs/ with docs/results/*.json, or writes their figures.

    .venv/bin/python tools/results_tables.py            # prints what differs; exit code 1 if anything does
    .venv/bin/python tools/results_tables.py --write    # writes the figures into the tables

A comment above a table names the file, a figure with its number of decimals for every column but the first,
and a row of the file for every row of the table. ``-`` leaves a column or a row alone::

    <!-- results: region_bench
    columns: outside_latent 4, inside_psnr 2
    rows: free, soft -->
    | | error | inside, PSNR ↑ |
    |---|---|---|
    | no region | .0567 | 16.64 |
    | **Region Edit** | 0 | **17.12** |

Figures below 1 have no zero before the point. A figure with ``_ci95`` beside it in the file has its interval
after it. In columns with ↑ or ↓ the best figure is bold. ``n%`` instead of decimals n makes a percentage.

``results pending`` marks a table whose file does not exist yet; --write makes it a results comment once it
does. A comment above a paragraph names the figures that its text must contain::

    <!-- results: region_bench: free.inside_psnr 2, soft.inside_psnr 2 -->
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/*.md", "core/models/*/MODEL_CARD.md")
_COMMENT = re.compile(
    r"<!-- results(?P<pending> pending)?: (?P<file>\w+)(?P<rest>[\n:].*?) *-->\n", re.DOTALL
)
_LEAVE = "-"


class TableError(Exception):
    """A results comment that cannot be understood."""


@dataclass(frozen=True)
class Column:
    """A figure of the file and how it is shown."""

    figure: str
    decimals: int
    percent: bool = False

    @classmethod
    def read(cls, text: str) -> Column | None:
        """Reads ``inside_psnr 2`` or ``exact 1%``; None for ``-``."""
        if text == _LEAVE:
            return None
        match = re.fullmatch(r"([\w.]+) (\d)(%?)", text)
        if match is None:
            raise TableError(f"'{text}' is not a figure with its number of decimals, such as 'psnr 2'.")
        return cls(match[1], int(match[2]), bool(match[3]))

    def show(self, row: Mapping[str, Any], interval: bool = True) -> str:
        """The figure as the docs print it; a dash if the row has none."""
        value = row.get(self.figure)
        if value is None:
            return "–"
        text = self._number(value)
        spread = row.get(f"{self.figure}_ci95") if interval else None
        return text if not spread else f"{text} ± {self._number(spread)}"

    def _number(self, value: float) -> str:
        if self.percent:
            return f"{100 * value:.{self.decimals}f} %"
        text = f"{value:.{self.decimals}f}"
        if not float(text):
            return "0"
        return re.sub(r"^(-?)0\.", r"\1.", text)


@dataclass(frozen=True)
class Marked:
    """A comment and the lines below it."""

    pending: bool
    file: str
    rest: str
    start: int
    """Where the comment starts on the page."""
    body: int
    """Where the lines below it start."""
    end: int

    @property
    def figures(self) -> list[str] | None:
        """The figures of a paragraph, ``row.figure decimals``; None for a table."""
        return _split(self.rest[1:]) if self.rest.startswith(":") else None

    def field(self, name: str) -> list[str]:
        """The entries of ``columns:`` or ``rows:``."""
        match = re.search(rf"^{name}:(.*?)(?=^\w+:|\Z)", self.rest, re.DOTALL | re.MULTILINE)
        if match is None:
            raise TableError(f"the comment of '{self.file}' has no line '{name}:'.")
        return _split(match[1])


def marked_parts(page: str) -> Iterator[Marked]:
    """Yields the comments of a page with the table or paragraph below each."""
    for match in _COMMENT.finditer(page):
        end = page.find("\n\n", match.end())
        end = len(page) if end < 0 else end + 1
        yield Marked(bool(match["pending"]), match["file"], match["rest"], match.start(), match.end(), end)


def filled(marked: Marked, page: str, methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table below a comment with the figures of the file.

    Raises:
        TableError: the comment does not fit the table or the file.
    """
    head, rule, *lines = page[marked.body : marked.end].splitlines()
    columns = [Column.read(text) for text in marked.field("columns")]
    names = marked.field("rows")
    titles = _cells(head)
    if len(lines) != len(names) or len(titles) != len(columns) + 1:
        raise TableError(
            f"the table of '{marked.file}' has {len(lines)} rows and {len(titles) - 1} columns of figures; "
            f"its comment names {len(names)} and {len(columns)}."
        )
    missing = [name for name in names if name != _LEAVE and name not in methods]
    if missing:
        raise TableError(f"'{marked.file}' has no row {', '.join(missing)}, only {', '.join(methods)}.")
    table = [_cells(line) for line in lines]
    for place, column in enumerate(columns, start=1):
        if column is None:
            continue
        rows = [methods[name] for name in names if name != _LEAVE]
        if all(column.figure not in row for row in rows):
            raise TableError(f"no row of '{marked.file}' has a figure '{column.figure}'.")
        best = _best(titles[place], column, rows)
        for cells, name in zip(table, names, strict=True):
            if name != _LEAVE:
                text = column.show(methods[name])
                is_best = column.show(methods[name], interval=False) == best
                cells[place] = f"**{text}**" if is_best else text
    return "\n".join([head, rule, *(f"| {' | '.join(cells)} |" for cells in table)]) + "\n"


def missing_figures(marked: Marked, page: str, methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the figures that the paragraph below a comment lacks, as they should be printed."""
    text = page[marked.body : marked.end]
    missing = []
    for entry in marked.figures or []:
        row, _, rest = entry.partition(".")
        column = Column.read(rest)
        if column is None or column.figure not in methods.get(row, {}):
            raise TableError(f"'{entry}' is not row.figure and decimals of '{marked.file}'.")
        shown = column.show(methods[row], interval=False)
        if re.search(rf"(?<![\d.]){re.escape(shown)}(?![\d])", text) is None:
            missing.append(f"{row}.{column.figure} is {shown}")
    return missing


def updated(page: str, results: Path) -> tuple[str, list[str]]:
    """Returns a page with the figures of the results, and what differed, as sentences."""
    faults: list[str] = []
    for marked in reversed(list(marked_parts(page))):
        file = results / f"{marked.file}.json"
        if not file.is_file():
            if not marked.pending:
                faults.append(f"docs/results/{marked.file}.json does not exist.")
            continue
        methods = json.loads(file.read_text(encoding="utf-8"))["methods"]
        try:
            if marked.pending:
                faults.append(f"'{marked.file}' is not pending any more: its file exists.")
            if marked.figures is not None:
                faults += missing_figures(marked, page, methods)
            else:
                body = filled(marked, page, methods)
                faults += _differences(page[marked.body : marked.end], body)
                page = page[: marked.body] + body + page[marked.end :]
            if marked.pending:
                page = page[: marked.start] + page[marked.start :].replace("results pending:", "results:", 1)
        except TableError as error:
            faults.append(str(error))
    return page, faults


def _differences(old: str, new: str) -> list[str]:
    return [
        f"'{before}' should be '{after}'"
        for before, after in zip(old.splitlines(), new.splitlines(), strict=True)
        if before != after
    ]


def _best(title: str, column: Column, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The best figure of a column without its interval; None if it is not said which is better."""
    values = [row for row in rows if row.get(column.figure) is not None]
    if not values or not re.search("[↑↓]", title):
        return None
    choose = max if "↑" in title else min
    return column.show(choose(values, key=lambda row: row[column.figure]), interval=False)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.replace("\n", " ").split(",") if part.strip()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks or writes all pages. Returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    wrong = 0
    for pattern in PAGES:
        for path in sorted(REPOSITORY.glob(pattern)):
            old = path.read_text(encoding="utf-8")
            new, faults = updated(old, REPOSITORY / "docs" / "results")
            if "--write" in given and new != old:
                path.write_text(new, encoding="utf-8")
                faults = updated(new, REPOSITORY / "docs" / "results")[1]
                print(f"{path.relative_to(REPOSITORY)}: written")
            for fault in faults:
                print(f"{path.relative_to(REPOSITORY)}: {fault}")
            wrong += len(faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
