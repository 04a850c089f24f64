"""The page of a build: what each stage made and refused, and samples of the data set."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...evaluation.reports.html import page_head, plain_table, sample
from ...storage.files import write_error, write_text
from .build import Build
from .figures import StageCount
from .stage import ID, Row

_ENDINGS = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"RIFF", ".webp"))


def write_report(
    build: Build,
    counts: Sequence[StageCount],
    title: str,
    about: Mapping[str, Any],
    columns: Mapping[str, str],
    samples: int = 40,
) -> Path:
    """Writes ``report.html``, with the images of its samples in ``report/``.

    Args:
        build: a build; parts that are not made are left out.
        counts: what its stages made, see ``count_rows``.
        title: the data set's name.
        about: what was run.
        columns: name in the data set -> column of the build, of the samples.
        samples: number of rows that are shown, spread evenly.

    Returns:
        The page's path.

    Raises:
        BuildError: a part is damaged, or lacks a column.
        StorageError: a file cannot be written.
    """
    lines = [
        *page_head(title, about, gray_from=100),
        plain_table("Stages", ("Stage", "Rows", "Refused", "Rows out"), [_count_row(c) for c in counts]),
        plain_table("Refusals", ("Stage", "Reason", "Rows", "For example"), _refusal_rows(counts)),
        "<h2>Samples</h2>",
    ]
    pictures = build.folder / "report"
    shutil.rmtree(pictures, ignore_errors=True)
    for number, row in enumerate(sample_rows(build, list(dict.fromkeys(columns.values())), samples)):
        lines.append(_sample(row, columns, pictures, number))
    page = build.folder / "report.html"
    write_text("\n".join(lines), page)
    return page


def sample_rows(build: Build, columns: Sequence[str], number: int) -> list[Row]:
    """Returns rows of the last stage, spread evenly over the parts that are made.

    Raises:
        BuildError: a part is damaged.
    """
    last = len(build.stages)
    unmade = set(build.unfinished_parts(last))
    counts = [0 if n in unmade else len(build.read(last, n, ()).kept) for n in range(build.parts)]
    total = sum(counts)
    wanted = [index * total // min(number, total) for index in range(min(number, total))]
    rows: list[Row] = []
    start = 0
    for part, count in enumerate(counts):
        here = [index - start for index in wanted if start <= index < start + count]
        if here:
            table = build.table(last, part, [column for column in columns if column != ID])
            # ``take`` would join the images of the whole part in one array.
            rows += [row for index in here for row in table.slice(index, 1).to_pylist()]
        start += count
    return rows


def _sample(row: Row, columns: Mapping[str, str], folder: Path, number: int) -> str:
    files = []
    facts = {}
    for name, column in columns.items():
        value = row[column]
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            file = folder / f"{number:03d}-{len(files)}{_ending(value['bytes'])}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file.write_bytes(value["bytes"])
            except OSError as error:
                raise write_error(file, error) from error
            files.append(f"{folder.name}/{file.name}")
        elif value is not None and column != ID:
            facts[name] = _shown(value)
    return sample(str(row[ID]), files, facts)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    # A hash tells a reader nothing, and would push the images aside.
    return text if " " in text or len(text) <= 40 else f"{text[:12]}…"


def _ending(content: bytes) -> str:
    return next((ending for start, ending in _ENDINGS if content.startswith(start)), ".bin")


def _count_row(count: StageCount) -> tuple[str, str, str, str]:
    return count.name, str(count.rows), str(count.rows - count.kept), str(count.out)


def _refusal_rows(counts: Sequence[StageCount]) -> list[tuple[str, str, str, str]]:
    rows = []
    for count in counts:
        for reason, number in count.refused:
            example = next((f"{row}: {detail}" for why, row, detail in count.examples if why == reason), "")
            rows.append((count.name, reason, str(number), example))
    return rows
