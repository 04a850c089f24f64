"""Parts of tables on disk. A part holds what one stage made of one part of the stage before.

A part of a stage holds its own columns only. Its column ``parent`` says which row of the stage before each
row comes from, so that images are never copied from stage to stage. Refused rows stay in it, with the reason.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import BuildError, first_line
from ...storage.files import atomic_write
from ...storage.parquet import pyarrow_module
from .stage import ID, Row

PARENT, REASON, DETAIL = "parent", "refused", "detail"
OWN_COLUMNS = (ID, PARENT, REASON, DETAIL)

ROWS_PER_GROUP = 100
"""Rows in a group of a parquet file; fewer if they are large."""
_GROUP_BYTES = 2**28
# Most characters of a refusal's detail that are kept.
_MOST_DETAIL = 500


@dataclass(frozen=True)
class RowResult:
    """What a stage made of one row: the rows that came out, or why there are none."""

    parent: int
    """Number of the row among the rows of its part that the stage before kept."""
    rows: Sequence[Row] = ()
    """The new columns of each row that came out, with ``id``."""
    reason: str | None = None
    detail: str | None = None
    id: str = ""
    """The refused row's id."""

    def comes_from(self, row: str) -> bool:
        """Whether it was made of the row with this id."""
        names = [self.id] if self.reason is not None else [each[ID] for each in self.rows]
        return all(comes_from(name, row) for name in names)


@dataclass(frozen=True)
class Part:
    """One part of a stage's table."""

    table: Any
    """A pyarrow table: ``OWN_COLUMNS``, then the stage's columns."""
    kept: Any = field(init=False)
    """The same table without refused rows."""

    def __post_init__(self) -> None:
        pa = pyarrow_module()
        object.__setattr__(self, "kept", self.table.filter(pa.compute.is_null(self.table[REASON])))


def comes_from(name: str, row: str) -> bool:
    """Whether ``name`` is the id of a row that a stage made of the row with the id ``row``."""
    return name == row or name.startswith(f"{row}.")


KINDS = ("text", "number", "integer", "flag", "texts", "numbers", "image")
"""Types of columns."""


def column_type(name: str) -> Any:
    """Returns pyarrow's type of one of ``KINDS``.

    An image is stored as the datasets library stores it.
    """
    pa = pyarrow_module()
    types = {
        "text": pa.string(),
        "number": pa.float64(),
        "integer": pa.int64(),
        "flag": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "numbers": pa.list_(pa.float64()),
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    }
    return types[name]


def write_part(results: Iterable[RowResult], columns: Mapping[str, str], path: Path) -> None:
    """Writes a part, whole or not at all. The same results give the same bytes.

    Raises:
        BuildError: a value does not fit its column.
        StorageError: the file cannot be written.
    """
    pa = pyarrow_module()
    rows: list[dict[str, Any]] = []
    for result in sorted(results, key=lambda result: result.parent):
        if result.reason is not None:
            detail = (result.detail or "")[:_MOST_DETAIL]
            rows.append({ID: result.id, PARENT: result.parent, REASON: result.reason, DETAIL: detail})
        rows += [{**row, PARENT: result.parent} for row in result.rows]
    schema = pa.schema(
        [(ID, pa.string()), (PARENT, pa.int64()), (REASON, pa.string()), (DETAIL, pa.string())]
        + [(name, column_type(kind)) for name, kind in columns.items()]
    )
    try:
        table = pa.Table.from_pylist(_storable(rows), schema=schema)
    except pa.ArrowException as error:
        raise BuildError(f"Build: a value does not fit its column ({error}).") from error
    write_tables([table], path)


def _storable(value: Any) -> Any:
    """Returns a value whose texts are valid. Bytes of file names that are no text become escapes."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    return {name: _storable(each) for name, each in value.items()} if isinstance(value, dict) else value


def read_part(path: Path, columns: Sequence[str] | None = None) -> Part:
    """Reads a part.

    Args:
        path: the file.
        columns: columns besides ``OWN_COLUMNS``; None reads all.

    Raises:
        BuildError: the file is damaged.
    """
    pa = pyarrow_module()
    advice = "Run the same command again: it is made anew."
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = None if columns is None else [*OWN_COLUMNS, *columns]
            missing = set(names or OWN_COLUMNS) - set(file.schema_arrow.names)
            if missing:
                raise ValueError(f"it lacks the column '{min(missing)}'")
            # All groups at once may be larger than an array can be.
            groups = [file.read_row_group(number, names) for number in range(file.num_row_groups)]
            return Part(pa.concat_tables(groups) if groups else file.read(names))
    except FileNotFoundError as error:
        raise BuildError(f"'{path}' is missing. {advice}") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BuildError(f"'{path}' is damaged ({first_line(error)}). Delete it. {advice}") from error


def part_results(part: Part) -> list[RowResult]:
    """Returns the results that a part was written from."""
    pa = pyarrow_module()
    results = [
        RowResult(row[PARENT], reason=row[REASON], detail=row[DETAIL], id=row[ID])
        for row in part.table.filter(pa.compute.is_valid(part.table[REASON])).to_pylist()
    ]
    rows: dict[int, list[Row]] = {}
    for row in part.kept.to_pylist():
        values = {name: value for name, value in row.items() if name not in (PARENT, REASON, DETAIL)}
        rows.setdefault(row[PARENT], []).append(values)
    return results + [RowResult(parent, tuple(values)) for parent, values in rows.items()]


def write_tables(tables: Iterable[Any], path: Path) -> None:
    """Writes pyarrow tables of one schema, at least one, as a parquet file, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    pa = pyarrow_module()
    with atomic_write(path) as temporary, contextlib.ExitStack() as stack:
        writer: Any = None
        for table in tables:
            if writer is None:
                writer = pa.parquet.ParquetWriter(temporary, table.schema, compression="zstd")
                stack.enter_context(writer)
            rows = _rows_per_group(table)
            # The bytes depend on where arrays are cut, so each group is one array.
            for start in range(0, max(1, len(table)), rows):
                writer.write_table(table.slice(start, rows).combine_chunks(), row_group_size=rows)


def _rows_per_group(table: Any) -> int:
    # Of a group above 2 GiB, pyarrow cannot read a column of images.
    return min(ROWS_PER_GROUP, max(1, len(table) * _GROUP_BYTES // max(1, table.nbytes)))


def with_image_features(table: Any) -> Any:
    """Returns a table whose image columns the datasets library opens as images."""
    kinds = {column_type("text"): "string", column_type("number"): "float64"}
    kinds |= {column_type("integer"): "int64", column_type("flag"): "bool"}
    features: dict[str, Any] = {}
    for column in table.schema:
        if column.type == column_type("image"):
            features[column.name] = {"_type": "Image"}
        elif column.type in kinds:
            features[column.name] = {"dtype": kinds[column.type], "_type": "Value"}
        else:
            item = "string" if column.type == column_type("texts") else "float64"
            features[column.name] = {"feature": {"dtype": item, "_type": "Value"}, "_type": "Sequence"}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
