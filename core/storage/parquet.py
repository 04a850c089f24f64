"""Reads parquet tables with images in their cells, as the datasets library writes them."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, first_line

# Most bytes of one cell, and what may be kept of a row group of a small file.
MOST_CELL_BYTES = 2**26
MOST_KEPT_BYTES = 2**29
# Least memory that a row takes once it is read.
_LEAST_ROW_BYTES = 100


def pyarrow_module() -> Any:
    """Imports pyarrow with ``compute`` and ``parquet``.

    Raises:
        DataError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "Tables: .parquet files need pyarrow, which is not installed. Run: pip install pyarrow"
        ) from error
    return pyarrow


def open_table(file: Path) -> Any:
    """Opens a parquet file as pyarrow's ``ParquetFile``.

    Raises:
        DataError: pyarrow is not installed, or the file is missing, truncated or not parquet.
    """
    pyarrow = pyarrow_module()
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(
            f"'{file.name}' cannot be read as parquet ({first_line(error)}). "
            "It may be cut short: download it again."
        ) from error


def check_columns(table: Any, file: Path, columns: Sequence[str]) -> None:
    """Checks that a table has all columns, each of them once.

    Raises:
        DataError: a column is missing, or two have its name.
    """
    try:
        present = table.schema_arrow.names
    except ValueError as error:  # names that are not valid UTF-8
        raise DataError(f"'{file.name}' is damaged ({first_line(error)}). Download it again.") from error
    missing = next((name for name in columns if name not in present), None)
    if missing is not None:
        raise DataError(
            f"'{file.name}' has no column '{missing}'; its columns are {', '.join(present)}. "
            "Is it another data set?"
        )
    twice = next((name for name in columns if present.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"'{file.name}' has {present.count(twice)} columns '{twice}'. Rename or remove all but one."
        )


def group_sizes(table: Any, file: Path) -> list[int]:
    """The number of rows of each row group, as the footer says it.

    Raises:
        DataError: the numbers are negative, disagree with the whole, or are too large for the file.
    """
    counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    if min(counts, default=0) < 0 or sum(counts) != table.metadata.num_rows:
        raise DataError(f"'{file.name}' is damaged (its numbers of rows disagree). Download it again.")
    most = _most_kept(file)
    if max(counts, default=0) * _LEAST_ROW_BYTES > most:
        raise _too_large(file, counts.index(max(counts)), most)
    return counts


def row_batches(
    table: Any, file: Path, columns: Sequence[str], size: int, group: int
) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of one row group in lists of ``size``.

    A few bytes can stand for many rows of images, so tables from elsewhere are read with a ``size`` of 1.

    Raises:
        DataError: the file is damaged, or a cell is too large.
    """
    try:
        for batch in table.iter_batches(batch_size=size, row_groups=[group], columns=list(columns)):
            rows = batch.to_pylist()
            for row in rows:
                _check_cells(row, file)
            yield rows
    except DataError:
        raise
    except Exception as error:  # pyarrow raises errors of all kinds for damaged pages
        raise DataError(f"'{file.name}' is damaged ({first_line(error)}). Download it again.") from error


def group_rows(table: Any, file: Path, columns: Sequence[str], group: int) -> list[dict[str, Any]]:
    """Reads all rows of one row group.

    Raises:
        DataError: the file is damaged, lacks the row group or a column, or the rows are far larger than it.
    """
    if not 0 <= group < table.num_row_groups:
        raise DataError(f"'{file.name}' has no row group {group}. Load the pairs again.")
    check_columns(table, file, columns)
    most = _most_kept(file)
    rows: list[dict[str, Any]] = []
    kept = 0
    for batch in row_batches(table, file, columns, 1, group):
        kept += sum(_size_of(row) for row in batch)
        if kept > most:
            raise _too_large(file, group, most)
        rows += batch
    return rows


def image_bytes(value: Any, name: str) -> bytes:
    """Returns the bytes of an image's cell, which is a struct of ``bytes`` and ``path``, or just bytes.

    Raises:
        DataError: the cell holds no bytes.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or not content:
        raise DataError(
            f"Image '{name}' is missing: the cell holds no bytes of an image. "
            "Download the file with its images."
        )
    return content


def _most_kept(file: Path) -> int:
    """Most bytes that may be kept of a row group. Images do not compress, so real tables take less."""
    return max(MOST_KEPT_BYTES, 2 * file.stat().st_size)


def _too_large(file: Path, group: int, most: int) -> DataError:
    return DataError(
        f"'{file.name}': its row group {group} needs more than {most / 2**20:.0f} MB. Write the table again "
        "with row groups of 100 rows, as the datasets library does."
    )


def _check_cells(row: dict[str, Any], file: Path) -> None:
    for name, value in row.items():
        size = _size_of(value)
        if size > MOST_CELL_BYTES:
            raise DataError(
                f"'{file.name}': a cell of its column '{name}' takes {size / 2**20:.0f} MB, at most "
                f"{MOST_CELL_BYTES / 2**20:.0f} MB are read. Store a smaller image or text."
            )


def _size_of(value: Any) -> int:
    """The memory that a cell or row takes."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sys.getsizeof(value) + sum(map(_size_of, inner))
