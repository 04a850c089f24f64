"""Writes the finished rows of a build as the parquet files of a data set."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import BuildError
from ...storage.parquet import pyarrow_module
from .build import Build
from .stage import ID
from .tables import with_image_features, write_table


def export_table(
    build: Build, columns: Mapping[str, str], folder: Path, split: str = "train", rows_per_file: int = 5000
) -> list[Path]:
    """Writes the rows that the last stage kept. The same build gives the same bytes.

    Args:
        build: a build whose parts are all made.
        columns: name in the data set -> column of the build; ``id`` is a column too.
        folder: the data set's folder. Files of an earlier export of this split are replaced.
        split: name of the split.
        rows_per_file: most rows of a file.

    Returns:
        The files, named as the datasets library names them.

    Raises:
        BuildError: the build is not finished, or no row is left.
        StorageError: a file cannot be written.
    """
    last = len(build.stages)
    if build.unfinished_parts(last):
        raise BuildError("Build: it is not finished. Run the same command again, then export.")
    counts = [len(build.read(last, part, ()).kept) for part in range(build.parts)]
    total = -(-sum(counts) // rows_per_file)
    if not total:
        raise BuildError("Build: no row is left, so there is no table. The report says why.")
    written = []
    for number, table in enumerate(_tables(build, columns, rows_per_file)):
        file = folder / f"{split}-{number:05d}-of-{total:05d}.parquet"
        write_table(with_image_features(table), file)
        written.append(file)
    for file in folder.glob(f"{split}-*-of-*.parquet"):
        if file not in written:
            file.unlink()
    return written


def _tables(build: Build, columns: Mapping[str, str], rows_per_file: int) -> Iterator[Any]:
    """Yields tables of exactly ``rows_per_file`` rows, but the last."""
    pa = pyarrow_module()
    last = len(build.stages)
    wanted = [column for column in columns.values() if column != ID]
    rest: Any = None
    for part in range(build.parts):
        table = build.table(last, part, list(dict.fromkeys(wanted)))
        table = pa.table({name: table[column] for name, column in columns.items()})
        rest = table if rest is None else pa.concat_tables([rest, table])
        while len(rest) >= rows_per_file:
            yield rest.slice(0, rows_per_file).combine_chunks()
            rest = rest.slice(rows_per_file)
    if rest is not None and len(rest):
        yield rest.combine_chunks()
