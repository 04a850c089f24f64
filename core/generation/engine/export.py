"""Writes the finished rows of a build as the parquet files of a data set."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import BuildError
from ...storage.parquet import pyarrow_module
from .build import Build
from .stage import ID
from .tables import with_image_features, write_table


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
    total = -(-sum(map(len, ids)) // rows_per_file)
    if not total:
        raise BuildError("Build: no row is left, so there is no table. The report says why.")
    written = []
    for number, table in enumerate(_tables(build, columns, rows_per_file, ids)):
        file = folder / f"{split}-{number:05d}-of-{total:05d}.parquet"
        write_table(with_image_features(table), file)
        written.append(file)
    for file in folder.glob(f"{split}-*-of-*.parquet"):
        if file not in written:
            file.unlink()
    return written


def _kept_ids(build: Build, part: int, only: Collection[str] | None) -> list[str]:
    ids = build.read(len(build.stages), part, ()).kept[ID].to_pylist()
    return ids if only is None else [each for each in ids if each in only]


def _tables(
    build: Build, columns: Mapping[str, str], rows_per_file: int, ids: list[list[str]]
) -> Iterator[Any]:
    """Yields tables of exactly ``rows_per_file`` rows, but the last. ``ids`` are those of each part."""
    pa = pyarrow_module()
    last = len(build.stages)
    wanted = [column for column in columns.values() if column != ID]
    rest: Any = None
    for part, kept in enumerate(ids):
        if not kept:
            continue
        table = build.table(last, part, list(dict.fromkeys(wanted)))
        if len(kept) < len(table):
            table = table.filter(pa.compute.is_in(table[ID], pa.array(kept)))
        table = pa.table({name: table[column] for name, column in columns.items()})
        rest = table if rest is None else pa.concat_tables([rest, table])
        while len(rest) >= rows_per_file:
            yield rest.slice(0, rows_per_file).combine_chunks()
            rest = rest.slice(rows_per_file)
    if rest is not None and len(rest):
        yield rest.combine_chunks()
