"""Images in the cells of parquet tables, which are read when they are used."""

import functools
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ..errors import DataError, PairError
from ..storage.parquet import group_rows, image_bytes, open_table

ENDING = ".parquet"


@dataclass(frozen=True)
class TableImage:
    """An image in a table's cell. It is read when it is used, and takes the place of a path until then."""

    file: Path
    group: int
    """Row group of the cell."""
    row: int
    """Number of the row in its group."""
    number: int
    """Number of the row in the file."""
    column: str

    @property
    def name(self) -> str:
        """Shown in messages."""
        return f"{self.file.name} row {self.number} {self.column}"

    @property
    def stem(self) -> str:
        """Name of the row."""
        return f"{self.file.stem} row {self.number}"

    def relative_to(self, folder: Path) -> PurePosixPath:
        """The place of the cell inside a folder, see ``image_at``."""
        within = self.file.relative_to(folder)
        return PurePosixPath(within.as_posix(), str(self.group), str(self.row), str(self.number), self.column)

    def stat(self) -> os.stat_result:
        """The status of the table's file."""
        return self.file.stat()

    def read_bytes(self) -> bytes:
        """Returns the encoded image.

        Raises:
            PairError: the table is damaged, or the cell holds no image.
        """
        try:
            status = self.file.stat()
            column = _column(self.file, self.group, self.column, status.st_size, status.st_mtime_ns)
            if not 0 <= self.row < len(column):
                raise DataError(f"'{self.file.name}' has no such row. Load the pairs again.")
            return image_bytes(column[self.row], self.name)
        except (DataError, OSError, IndexError) as error:
            raise PairError(f"Image '{self.name}' cannot be read ({error}).") from error


ImagePlace = Path | TableImage
"""Where the image of a pair is: in a file, or in a table."""


def readable(place: ImagePlace) -> Path | BinaryIO:
    """Returns what ``open_image`` reads.

    Raises:
        PairError: a table's cell cannot be read.
    """
    return BytesIO(place.read_bytes()) if isinstance(place, TableImage) else place


def forget_columns() -> None:
    """Frees the columns that images were read from."""
    _column.cache_clear()


def image_at(folder: Path, place: str) -> ImagePlace:
    """Returns the image that ``relative_to`` of its path or cell names inside a folder."""
    parts = PurePosixPath(place).parts
    if len(parts) > 4 and parts[-5].endswith(ENDING) and not (folder / place).is_file():
        group, row, number = map(int, parts[-4:-1])
        return TableImage(folder.joinpath(*parts[:-4]), group, row, number, parts[-1])
    return folder / place


@functools.lru_cache(3)
def _column(file: Path, group: int, column: str, _bytes: int, _changed: int) -> list[Any]:
    """A column of a row group. The images of a pair are in two or three columns, so that many are kept.

    ``group_rows`` limits the bytes of each.
    """
    with open_table(file) as table:
        return [row[column] for row in group_rows(table, file, [column], group)]
