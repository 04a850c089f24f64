"""Reads parquet tables with images in their cells, as the datasets library writes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, first_line


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


def row_batches(
    table: Any, file: Path, columns: Sequence[str], size: int, group: int
) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of one row group in lists of ``size``.

    Raises:
        DataError: the file is damaged.
    """
    import pyarrow

    try:
        for batch in table.iter_batches(batch_size=size, row_groups=[group], columns=list(columns)):
            yield batch.to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"'{file.name}' is damaged ({first_line(error)}). Download it again.") from error


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
