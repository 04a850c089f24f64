"""Parquet tables of pairs: which column holds what, and pairs whose images are read when they are used."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..errors import DataError, PairError
from ..storage.parquet import check_columns, group_rows, group_sizes, open_table, row_batches
from . import pair_lists
from .layouts import folders_below
from .pair_lists import ListedPair, Refuse, direct_words, first_of, indirect_texts
from .table_images import ENDING, TableImage

# Columns of UltraEdit's tables. core/pairs/pair_lists.py lists the names that other data sets use.
BEFORE = "source_image"
AFTER = "edited_image"
WORDS = "edit_prompt"

# Words of a row take at most so many characters, since those of all rows are kept.
_MOST_WORDS = 100_000
_LISTS = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")


@dataclass(frozen=True)
class ColumnNames:
    """Names of a table's columns."""

    before: str
    after: str
    words: str | None
    """None only where words are not needed."""
    mask: str | None
    """None, or null in a row, for free-form edits."""
    reasoning: str | None

    @property
    def images(self) -> list[str]:
        """The names of the columns of images that are not None."""
        return [name for name in (self.before, self.after, self.mask) if name is not None]

    @property
    def texts(self) -> list[str]:
        """The names of the columns of texts that are not None."""
        return [name for name in (self.words, self.reasoning) if name is not None]


def table_files(place: Path) -> list[Path]:
    """The parquet files of a folder at any depth, in the order of their paths; or the file itself."""
    if place.is_file():
        return [place] if place.suffix == ENDING else []
    folders = (place, *folders_below(place))
    return sorted(file for folder in folders for file in folder.glob(f"*{ENDING}") if file.is_file())


def columns_of(table: Any, file: Path, words: bool = True) -> ColumnNames:
    """The columns of an open table of pairs, by the names that data sets use.

    Args:
        table: result of ``open_table``.
        file: its file.
        words: whether a column of words is needed.

    Raises:
        DataError: a column is missing, appears twice, or holds something else.
    """
    check_columns(table, file, ())
    columns = _column_names(table.schema_arrow.names, words)
    check_columns(table, file, (*columns.images, *columns.texts))
    check_kinds(table.schema_arrow, file, columns.images, columns.texts)
    return columns


def check_kinds(schema: Any, file: Path, images: Sequence[str], texts: Sequence[str]) -> None:
    """Checks what a table's columns hold, before their rows are read.

    Raises:
        DataError: an image's column holds no bytes, or a text's column no text.
    """
    for name in images:
        kind = schema.field(name).type
        if not _holds_bytes(kind):
            raise DataError(
                f"'{file.name}': its column '{name}' holds {str(kind)[:80]}, not images. Each cell needs the "
                "bytes of an image file, as the datasets library writes them."
            )
    for name in texts:
        kind = schema.field(name).type
        if not _holds_text(kind):
            raise DataError(
                f"'{file.name}': its column '{name}' holds {str(kind)[:80]}, not text. Write instructions "
                "into it, or give the column another name."
            )


def row_groups(file: Path, words: bool = True) -> tuple[ColumnNames, list[int]]:
    """The columns of a table of pairs, and the number of rows of each row group. Reads only the footer.

    Args:
        file: the table.
        words: see ``columns_of``.

    Raises:
        DataError: see ``open_table``, ``columns_of`` and ``group_sizes``.
    """
    with open_table(file) as table:
        columns = columns_of(table, file, words)
        return columns, group_sizes(table, file)


def pairs_of_tables(files: Sequence[Path], refuse: Refuse, most: int) -> list[ListedPair]:
    """The pairs of tables, in the order of their rows. Reads no image.

    Args:
        files: parquet files.
        refuse: called for a row that cannot be used.
        most: number of pairs above which the pairs are not read.

    Raises:
        PairError: a table cannot be read, or there are more than ``most`` pairs.
    """
    try:
        tables = [(file, *row_groups(file, words=False)) for file in files]
        count = sum(sum(counts) for _, _, counts in tables)
        if count > most:
            raise PairError(
                f"'{files[0].name}': the tables hold {count} pairs, at most {most} can be learned from. "
                "Write a table of the pairs that show your edit."
            )
        return [
            pair
            for file, columns, counts in tables
            for group, first in zip(range(len(counts)), accumulate(counts, initial=0), strict=False)
            for pair in _listed(file, columns, group, first, refuse)
        ]
    except DataError as error:
        raise PairError(str(error)) from error


def _listed(file: Path, columns: ColumnNames, group: int, first: int, refuse: Refuse) -> Iterator[ListedPair]:
    with open_table(file) as table:
        masked = _present(table, file, group, columns.mask)
        count = table.metadata.row_group(group).num_rows
        rows = group_rows(table, file, columns.texts, group) if columns.texts else [{}] * count
    for number, row in enumerate(rows):
        name = f"{file.stem} row {first + number}"

        def cell(column: str, row: int = number) -> TableImage:
            return TableImage(file, group, row, first + row, column)

        try:
            reasoning = indirect_texts(row[columns.reasoning] if columns.reasoning else None, name)
            words = direct_words(row[columns.words]) if columns.words else ""
            length = sum(map(len, (words, *reasoning)))
            if length > _MOST_WORDS:
                raise PairError(
                    f"Pair '{name}': its words have {length} characters, at most {_MOST_WORDS} are read. "
                    "Shorten them."
                )
        except PairError as error:
            refuse(error)
            continue
        yield ListedPair(
            name,
            cell(columns.before),
            cell(columns.after),
            words,
            cell(columns.mask) if columns.mask and masked.get(number) else None,
            reasoning,
        )


def _present(table: Any, file: Path, group: int, column: str | None) -> Mapping[int, bool]:
    """Which rows of a group have a mask."""
    if column is None:
        return {}
    rows = (row for batch in row_batches(table, file, [column], 1, group) for row in batch)
    return {
        number: (value.get("bytes") if isinstance(value, dict) else value) is not None
        for number, value in enumerate(row[column] for row in rows)
    }


def _column_names(names: Sequence[str], words: bool) -> ColumnNames:
    """Picks a table's columns; missing required ones get UltraEdit's names."""
    present = dict.fromkeys(names, True)
    return ColumnNames(
        before=first_of(pair_lists.BEFORE, present) or BEFORE,
        after=first_of(pair_lists.AFTER, present) or AFTER,
        words=first_of(pair_lists.WORDS, present) or (WORDS if words else None),
        mask=first_of(pair_lists.MASK, present),
        reasoning=first_of((pair_lists.REASONING,), present),
    )


def _holds_bytes(kind: Any) -> bool:
    import pyarrow

    if isinstance(kind, pyarrow.StructType):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return _is_one_of(kind, "null", "binary", "large_binary", "binary_view", "fixed_size_binary") or (
        isinstance(kind, pyarrow.DictionaryType) and _holds_bytes(kind.value_type)
    )


def _holds_text(kind: Any) -> bool:
    import pyarrow

    if isinstance(kind, pyarrow.DictionaryType) or _is_one_of(kind, *_LISTS):
        return _holds_text(kind.value_type)
    return _is_one_of(kind, "null", "string", "large_string", "string_view")


def _is_one_of(kind: Any, *names: str) -> bool:
    from pyarrow import types

    # Older versions of pyarrow do not know all types.
    return any(hasattr(types, f"is_{name}") and getattr(types, f"is_{name}")(kind) for name in names)
