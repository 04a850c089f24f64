"""Data sets for fine-tuning: parquet tables, and folders or lists of pairs (see core/pairs/layouts.py).

Data is read in blocks. Images are decoded only when a pair is used.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..errors import DataError, PairError
from ..pairs.layouts import pairs_below
from ..pairs.pair_lists import Refusals, direct_words, indirect_texts, read_list
from ..pairs.pair_tables import ColumnNames, row_groups, table_files
from ..pairs.table_images import ImagePlace, TableImage
from ..storage.parquet import group_rows, image_bytes, open_table
from .training_pairs import ImageSource, PairRecord

logger = logging.getLogger(__name__)


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
            DataError: the file is damaged, or its rows need too much memory.
        """
        names = [*self.columns.images, *self.columns.texts]
        with open_table(self.file) as table:
            rows = group_rows(table, self.file, names, self.group)
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
            words = direct_words(row[columns.words]) if columns.words else ""
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
        tables = table_files(place)
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


def first_usable_records(blocks: Sequence[Block], number: int, indirect: bool = False) -> list[PairRecord]:
    """Returns the first pairs that can be decoded. They are always the same, so that images can be compared.

    Args:
        blocks: the data.
        number: how many.
        indirect: whether an indirect instruction alone is enough.

    Raises:
        DataError: a file is damaged.
    """
    found: list[PairRecord] = []
    for record in (record for block in blocks for record in block.records()):
        if len(found) == number:
            break
        with suppress(PairError):
            words = next(filter(None, (record.words, *(record.reasoning if indirect else ()))), "")
            replace(record, words=words).read()
            found.append(record)
    return found


def _table_blocks(file: Path) -> list[TableBlock]:
    columns, counts = row_groups(file)
    return [
        TableBlock(file, group, first, counts[group], columns)
        for group, first in zip(range(len(counts)), accumulate(counts, initial=0), strict=False)
    ]


def _folder_block(place: Path, strict: bool) -> FolderBlock:
    """Reads the pairs of a folder or of a single list."""
    folder = place.parent if place.is_file() else place
    refused = Refusals()
    found = read_list(place, refused.add) if place.is_file() else pairs_below(place, refused.add)
    if refused.first and (strict or not found):
        raise refused.first
    for text in refused.texts:
        logger.warning("instructbrush: skipped: %s", text)
    if refused.count:
        logger.warning(
            "instructbrush: %d pairs of '%s' were skipped, %d remain.", refused.count, folder.name, len(found)
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

    def image(place: ImagePlace) -> ImageSource:
        content = place.read_bytes() if isinstance(place, TableImage) else place
        return ImageSource(content, place.relative_to(folder).as_posix())

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
