"""Data sets for fine-tuning: parquet tables, and folders or lists of pairs (see core/pairs/layouts.py).

Data is read in blocks. Images are decoded only when a pair is used.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DataError, PairError
from ..pairs import pair_lists
from ..pairs.layouts import folders_below, pairs_below
from ..pairs.pair_lists import direct_words, first_of, indirect_texts, read_list
from ..storage.parquet import check_columns, image_bytes, open_table, row_batches
from .training_pairs import ImageSource, PairRecord

logger = logging.getLogger(__name__)

# Columns of UltraEdit's tables. core/pairs/pair_lists.py lists the names that other data sets use.
BEFORE = "source_image"
AFTER = "edited_image"
WORDS = "edit_prompt"

_LISTS = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")

# Skipped list entries that are logged one by one; the rest are only counted.
_MOST_LOGGED = 20


@dataclass(frozen=True)
class ColumnNames:
    """Names of a table's columns."""

    before: str
    after: str
    words: str
    mask: str | None
    """None, or null in a row, for free-form edits."""
    reasoning: str | None

    @property
    def present(self) -> list[str]:
        """The names that are not None."""
        names = (self.before, self.after, self.words, self.mask, self.reasoning)
        return [name for name in names if name is not None]


@dataclass(frozen=True)
class TableBlock:
    """A row group of a parquet file, which is read at once."""

    file: Path
    group: int
    first: int
    """Number of the group's first row in the file."""
    count: int
    columns: ColumnNames

    @property
    def name(self) -> str:
        """Identifies the rows, wherever the file is stored."""
        return f"{self.file.name} {self.group} {self.count}"

    def records(self) -> list[PairRecord]:
        """Reads the rows; images stay encoded.

        Raises:
            DataError: the file is damaged.
        """
        with open_table(self.file) as table:
            rows = [
                row
                for batch in row_batches(table, self.file, self.columns.present, 64, self.group)
                for row in batch
            ]
        return [
            self._record(f"{self.file.name} row {number}", row) for number, row in enumerate(rows, self.first)
        ]

    def _record(self, name: str, row: Mapping[str, Any]) -> PairRecord:
        columns = self.columns

        def image(column: str) -> ImageSource:
            return ImageSource(image_bytes(row[column], f"{name} {column}"), f"{name} {column}")

        try:
            mask = image(columns.mask) if columns.mask and row[columns.mask] is not None else None
            reasoning = indirect_texts(row[columns.reasoning] if columns.reasoning else None, name)
            words = direct_words(row[columns.words])
            return PairRecord(name, words, image(columns.before), image(columns.after), mask, reasoning)
        except (DataError, PairError) as error:
            empty = ImageSource(b"", name)
            return PairRecord(name, "", empty, empty, None, fault=str(error))


@dataclass(frozen=True)
class FolderBlock:
    """The pairs of a folder."""

    pairs: tuple[PairRecord, ...]

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    @property
    def name(self) -> str:
        """Identifies the pairs, wherever the folder is stored."""
        return repr(
            [
                (
                    pair.name,
                    pair.words,
                    pair.before.name,
                    pair.after.name,
                    pair.mask and pair.mask.name,
                    *pair.reasoning,
                )
                for pair in self.pairs
            ]
        )

    def records(self) -> list[PairRecord]:
        """Returns the pairs."""
        return list(self.pairs)


Block = TableBlock | FolderBlock


def find_blocks(places: Sequence[Path], strict: bool = False) -> tuple[Block, ...]:
    """Finds all training data. Reads only the footers of tables.

    Args:
        places: .parquet files, folders that contain such files at any depth, folders of pairs with words
            (see ``pairs_below`` in core/pairs/layouts.py), or lists of such pairs.
        strict: raise for the first list entry that cannot be used. Otherwise it is skipped and logged.

    Raises:
        PairError: nothing was found, or a list is malformed.
        DataError: a table is damaged or lacks a column, or pyarrow is not installed.
    """
    blocks: list[Block] = []
    for place in places:
        if not place.exists():
            raise PairError(
                f"Data: '{place}' does not exist. Give a folder with .parquet files or with pairs.json."
            )
        tables = _table_files(place)
        for file in tables:
            blocks += _table_blocks(file)
        if not tables:
            blocks.append(_folder_block(place, strict))
    blocks = [block for block in blocks if block.count]
    if not blocks:
        names = ", ".join(str(place) for place in places)
        raise PairError(f"Data: {names}: no pairs were found. Download the files again.")
    return tuple(blocks)


def digest_of(blocks: Sequence[Block]) -> str:
    """Returns hex digits that identify the pairs."""
    return hashlib.sha256(repr([block.name for block in blocks]).encode()).hexdigest()


def first_usable_records(blocks: Sequence[Block], number: int) -> list[PairRecord]:
    """Returns the first pairs that can be decoded. They are always the same, so that images can be compared.

    Raises:
        DataError: a file is damaged.
    """
    found: list[PairRecord] = []
    for record in (record for block in blocks for record in block.records()):
        if len(found) == number:
            break
        with suppress(PairError):
            words = next(filter(None, (record.words, *record.reasoning)), "")
            replace(record, words=words).read()
            found.append(record)
    return found


def _table_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix == ".parquet" else []
    folders = (place, *folders_below(place))
    return sorted(file for folder in folders for file in folder.glob("*.parquet") if file.is_file())


def _table_blocks(file: Path) -> list[TableBlock]:
    with open_table(file) as table:
        check_columns(table, file, ())
        columns = _column_names(table.schema_arrow.names)
        check_columns(table, file, columns.present)
        _check_kinds(table.schema_arrow, file, columns)
        counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    return [
        TableBlock(file, group, sum(counts[:group]), count, columns) for group, count in enumerate(counts)
    ]


def _check_kinds(schema: Any, file: Path, columns: ColumnNames) -> None:
    """Checks what a table's columns hold, before their rows are read.

    Raises:
        DataError: an image's column holds no bytes, or a text's column no text.
    """
    import pyarrow

    def holds_bytes(kind: Any) -> bool:
        if isinstance(kind, pyarrow.StructType):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return _is_one_of(kind, "null", "binary", "large_binary", "binary_view", "fixed_size_binary") or (
            isinstance(kind, pyarrow.DictionaryType) and holds_bytes(kind.value_type)
        )

    def holds_text(kind: Any) -> bool:
        if isinstance(kind, pyarrow.DictionaryType) or _is_one_of(kind, *_LISTS):
            return holds_text(kind.value_type)
        return _is_one_of(kind, "null", "string", "large_string", "string_view")

    images = (columns.before, columns.after, columns.mask)
    for name in columns.present:
        kind = schema.field(name).type
        if name in images and not holds_bytes(kind):
            raise DataError(
                f"'{file.name}': its column '{name}' holds {str(kind)[:80]}, not images. Each cell needs the "
                "bytes of an image file, as the datasets library writes them."
            )
        if name not in images and not holds_text(kind):
            raise DataError(
                f"'{file.name}': its column '{name}' holds {str(kind)[:80]}, not text. Write instructions "
                "into it, or give the column another name."
            )


def _is_one_of(kind: Any, *names: str) -> bool:
    from pyarrow import types

    # Older versions of pyarrow do not know all types.
    return any(hasattr(types, f"is_{name}") and getattr(types, f"is_{name}")(kind) for name in names)


def _column_names(names: Sequence[str]) -> ColumnNames:
    """Picks a table's columns; missing required ones get UltraEdit's names."""
    present = dict.fromkeys(names, True)
    return ColumnNames(
        before=first_of(pair_lists.BEFORE, present) or BEFORE,
        after=first_of(pair_lists.AFTER, present) or AFTER,
        words=first_of(pair_lists.WORDS, present) or WORDS,
        mask=first_of(pair_lists.MASK, present),
        reasoning=first_of((pair_lists.REASONING,), present),
    )


def _folder_block(place: Path, strict: bool) -> FolderBlock:
    """Reads the pairs of a folder or of a single list."""
    folder = place.parent if place.is_file() else place
    refused: list[PairError] = []
    found = read_list(place, refused.append) if place.is_file() else pairs_below(place, refused.append)
    if refused and (strict or not found):
        raise refused[0]
    for error in refused[:_MOST_LOGGED]:
        logger.warning("instructbrush: skipped: %s", error)
    if refused:
        logger.warning(
            "instructbrush: %d pairs of '%s' were skipped, %d remain.", len(refused), folder.name, len(found)
        )
    if not any(pair.words or pair.reasoning for pair in found):
        if found:
            problem = f"holds {len(found)} pairs without words"
        else:
            problem = "holds neither .parquet files nor pairs"
        raise PairError(
            f"Data: '{place}' {problem}. Fine-tuning needs words: write pairs.json, a list of "
            '{"before": file, "after": file, "words": text}, with "mask": file for edits in a region.'
        )

    def image(path: Path) -> ImageSource:
        return ImageSource(path, str(path.relative_to(folder)))

    records = [
        PairRecord(
            f"{number} of {folder.name}",
            pair.words,
            image(pair.before),
            image(pair.after),
            image(pair.mask) if pair.mask else None,
            pair.reasoning,
        )
        for number, pair in enumerate(found)
    ]
    return FolderBlock(tuple(records))
