"""Parquet tables of images with captions, or of edits: UltraEdit's, those of builds, and similar ones."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...pairs import pair_lists
from ...pairs.pair_lists import direct_words, first_of
from ...pairs.pair_tables import check_kinds
from ...storage.parquet import check_columns, group_sizes, image_bytes, open_table, row_batches
from ..engine.stage import Row
from ..errors import Refused
from .rows import (
    BAD_IMAGE,
    CAPTION,
    EDIT_COLUMNS,
    EDITED_CAPTION,
    EDITED_IMAGE,
    IMAGE,
    INSTRUCTION,
    NO_IMAGE,
    FileSource,
    hash_of,
    image_cell,
    no_rows,
    row_of,
    unique_ids,
)

# Names of the caption's column in tables that hold no edits.
CAPTIONS = (*pair_lists.CAPTION, "caption", "text", "prompt", "description", "captions")
_DAMAGED = "the table is damaged there"
_IMAGES = (IMAGE, EDITED_IMAGE)


class TableSource(FileSource):
    """The rows of parquet files, in the order of the files' paths.

    Raises:
        DataError: a file is damaged, lacks a column of the first file, or there is no row.
    """

    layout = "parquet table"

    def __init__(self, place: Path, files: Sequence[Path]) -> None:
        root = place if place.is_dir() else place.parent
        self._names: Mapping[str, str] = {}
        groups: list[tuple[Path, int, int]] = []
        footers = []
        for file in files:
            with open_table(file) as table:
                self._names = self._names or _column_names(table, file)
                check_columns(table, file, list(self._names.values()))
                images, texts = self._columns_of_kind(True), self._columns_of_kind(False)
                check_kinds(table.schema_arrow, file, images, texts)
                counts = group_sizes(table, file)
                footers.append((file.relative_to(root).as_posix(), counts, file.stat().st_size))
            firsts = accumulate(counts, initial=0)
            groups += [(file, group, first) for group, first in zip(range(len(counts)), firsts, strict=False)]
        super().__init__(place, [name for name in EDIT_COLUMNS if name in self._names or name == CAPTION])
        names = unique_ids(file.relative_to(root).with_suffix("").as_posix() for file in files)
        self._ids = dict(zip(files, names, strict=True))
        self._groups = tuple(groups)
        # Number of the first row of each group, and of all rows.
        self._starts = [0, *accumulate(count for _, counts, _ in footers for count in counts)]
        self._fingerprint = hash_of("table", self._names, footers)
        self._reading: _GroupReader | None = None
        if not self.count:
            raise no_rows(place, "Download the files again.")

    @property
    def count(self) -> int:
        """See ``FileSource``."""
        return self._starts[-1]

    @property
    def fingerprint(self) -> str:
        """See ``FileSource``."""
        return self._fingerprint

    def row(self, number: int) -> Row:
        """See ``FileSource``. To read several rows, ``rows`` is faster."""
        (found,) = self.rows(number, 1)
        if isinstance(found, Refused):
            raise found
        return found

    def rows(self, start: int, count: int) -> Iterator[Row | Refused]:
        """See ``FileSource``."""
        end = min(start + count, self.count)
        while start < end:
            group = bisect_right(self._starts, start) - 1
            last = min(end, self._starts[group + 1])
            yield from self._group_rows(group, start - self._starts[group], last - self._starts[group])
            start = last

    def _group_rows(self, group: int, first: int, last: int) -> Iterator[Row | Refused]:
        """The rows ``first`` to ``last`` of a row group."""
        file, number, start = self._groups[group]
        for index in range(first, last):
            if self._reading is None or not self._reading.can_read(group, index):
                self._close()
                self._reading = _GroupReader(file, number, group, list(self._names.values()))
            try:
                cells = self._reading.row(index)
            except DataError as error:
                self._close()
                yield from (Refused(_DAMAGED, str(error)) for _ in range(index, last))
                return
            yield self._row(file, start + index, cells)

    def _close(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def __getstate__(self) -> dict[str, Any]:
        # Other processes open the tables themselves.
        return {**self.__dict__, "_reading": None}

    def _row(self, file: Path, number: int, values: Mapping[str, Any]) -> Row | Refused:
        cells: dict[str, Any] = {}
        for column, name in self._names.items():
            value = values[name]
            if column not in _IMAGES:
                cells[column] = direct_words(value) or None
                continue
            try:
                content = image_bytes(value, f"{file.name} row {number} {name}")
                cells[column] = image_cell(content, f"{file.name} row {number} {name}")
            except DataError as error:
                return Refused(NO_IMAGE, str(error))
            except Refused as refusal:
                return Refused(BAD_IMAGE, refusal.detail)
        return row_of(f"{self._ids[file]}-{number}", cells, self.columns)

    def _columns_of_kind(self, images: bool) -> list[str]:
        return [name for column, name in self._names.items() if (column in _IMAGES) == images]


class _GroupReader:
    """Reads the rows of a row group in order. To go back, the group must be read from its beginning again, so
    a reader is kept for the rows that are wanted next.
    """

    def __init__(self, file: Path, number: int, group: int, columns: Sequence[str]) -> None:
        self._file = file
        self._group = group
        self._next = 0
        # Rows are decoded one by one, since a batch would hold the images of all of its rows.
        self._table = open_table(file)
        self._batches = row_batches(self._table, file, columns, 1, number)

    def close(self) -> None:
        """Closes the file."""
        self._table.close()

    def can_read(self, group: int, index: int) -> bool:
        """Whether a row of a group is still ahead."""
        return group == self._group and index >= self._next

    def row(self, index: int) -> Mapping[str, Any]:
        """Returns the cells of a row that is still ahead.

        Raises:
            DataError: the file is damaged.
        """
        skipped = index - self._next
        self._next = index + 1
        rows = next(islice(self._batches, skipped, None), None)
        if rows is None:
            raise DataError(f"'{self._file.name}' ends early. Download it again.")
        return rows[0]


def _column_names(table: Any, file: Path) -> dict[str, str]:
    """Column of the source -> the table's name of it."""
    check_columns(table, file, ())
    present = dict.fromkeys(table.schema_arrow.names, True)
    image = first_of((*pair_lists.BEFORE, "img", "jpg"), present)
    if image is None:
        raise DataError(
            f"'{file.name}' has no column of images such as 'image' or 'source_image'; its columns are "
            f"{', '.join(present)}."
        )
    edited = first_of(pair_lists.AFTER, present)
    if edited is None:
        caption = first_of(CAPTIONS, present)
        return {IMAGE: image, **({CAPTION: caption} if caption else {})}
    names = {
        IMAGE: image,
        EDITED_IMAGE: edited,
        INSTRUCTION: first_of(pair_lists.WORDS, present),
        EDITED_CAPTION: first_of(pair_lists.EDITED_CAPTION, present),
    }
    names[CAPTION] = first_of(tuple(name for name in CAPTIONS if name not in names.values()), present)
    return {column: name for column, name in names.items() if name is not None}
