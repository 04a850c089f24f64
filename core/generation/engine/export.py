"""Writes the finished rows of a build as the parquet files of a data set."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import BuildError
from ...storage.files import remove
from ...storage.parquet import pyarrow_module
from .build import Build
from .stage import ID
from .tables import ROWS_PER_GROUP, with_image_features, write_tables


def export_table(
    build: Build,
    columns: Mapping[str, str],
    folder: Path,
    split: str = "train",
    rows_per_file: int = 5000,
    only: Collection[str] | None = None,
) -> list[Path]:
    """Writes the rows that the last stage kept. The same build gives the same bytes.

    Args:
        build: a build whose parts are all made.
        columns: name in the data set -> column of the build; ``id`` is a column too.
        folder: the data set's folder. Files of an earlier export of this split are replaced.
        split: name of the split.
        rows_per_file: most rows of a file.
        only: ids of the rows that are written; None writes all.

    Returns:
        The files, named as the datasets library names them.

    Raises:
        BuildError: the build is not finished, or no row is left.
        StorageError: a file cannot be written.
    """
    last = len(build.stages)
    if build.unfinished_parts(last):
        raise BuildError("Build: it is not finished. Run the same command again, then export.")
    ids = [_kept_ids(build, part, only) for part in range(build.parts)]
    rows = sum(map(len, ids))
    if not rows:
        raise BuildError("Build: no row is left, so there is no table. The report says why.")
    total = -(-rows // rows_per_file)
    written = [folder / f"{split}-{number:05d}-of-{total:05d}.parquet" for number in range(total)]
    left = _RowsLeft(_tables(build, columns, ids))
    for file in written:
        sizes = _group_sizes(min(rows_per_file, rows))
        write_tables((with_image_features(left.take(size)) for size in sizes), file)
        rows -= rows_per_file
    for file in folder.glob(f"{split}-*-of-*.parquet"):
        if file not in written:
            remove(file)
    return written


def _kept_ids(build: Build, part: int, only: Collection[str] | None) -> list[str]:
    ids = build.read(len(build.stages), part, ()).kept[ID].to_pylist()
    return ids if only is None else [each for each in ids if each in only]


def _group_sizes(rows: int) -> list[int]:
    return [min(ROWS_PER_GROUP, rows - start) for start in range(0, rows, ROWS_PER_GROUP)]


def _tables(build: Build, columns: Mapping[str, str], ids: list[list[str]]) -> Iterator[Any]:
    """Yields the table of each part. ``ids`` are the rows that are wanted of it."""
    pa = pyarrow_module()
    last = len(build.stages)
    wanted = list(dict.fromkeys(column for column in columns.values() if column != ID))
    for part, kept in enumerate(ids):
        if kept:
            table = build.table(last, part, wanted)
            if len(kept) < len(table):
                table = table.filter(pa.compute.is_in(table[ID], pa.array(kept)))
            yield pa.table({name: table[column] for name, column in columns.items()})


class _RowsLeft:
    """Takes tables of a wanted length out of tables of any length. Holds few of them at a time."""

    def __init__(self, tables: Iterator[Any]) -> None:
        self._tables = tables
        self._rest = next(tables)

    def take(self, rows: int) -> Any:
        """Returns the next rows, of which there are as many."""
        while len(self._rest) < rows:
            self._rest = pyarrow_module().concat_tables([self._rest, next(self._tables)])
        taken, self._rest = self._rest.slice(0, rows), self._rest.slice(rows)
        return taken
