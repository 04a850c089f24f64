"""What all sources share: the columns, images in cells, ids, and reading row by row."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from ...errors import DataError, PairError
from ...storage.files import read_file
from ...storage.image_files import open_image
from ...storage.image_tensors import on_white
from ..engine.stage import ID, Row
from ..errors import Refused

IMAGE = "image"
CAPTION = "caption"
"""What the image shows; null where nothing says so."""
EDITED_IMAGE = "edited_image"
INSTRUCTION = "instruction"
EDITED_CAPTION = "edited_caption"
CATEGORIES = "categories"
"""Names of the kinds of objects that are marked in the image."""

TYPES = {
    IMAGE: "image",
    CAPTION: "text",
    EDITED_IMAGE: "image",
    INSTRUCTION: "text",
    EDITED_CAPTION: "text",
    CATEGORIES: "texts",
}
"""Column -> its type, see ``column_type`` in core/generation/engine/tables.py."""
EDIT_COLUMNS = (IMAGE, CAPTION, EDITED_IMAGE, INSTRUCTION, EDITED_CAPTION)

# Reasons of refusals, which are counted by reason.
NO_IMAGE = "an image is missing"
BAD_IMAGE = "an image cannot be read"
BAD_WORDS = "the words cannot be read"
BAD_ENTRY = "the entry is malformed"

# Largest files that are read.
_MOST_BYTES = 2**28
MOST_WORDS_BYTES = 2**20
MOST_LIST_BYTES = 2**30
_KEPT = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_CHECKED_SIDE = 64


class FileSource(ABC):
    """Rows from files, in an order that the files determine: a ``Source`` of core/generation/engine/build.py.

    Holds where the rows are. Images are read one row at a time.

    Args:
        place: the folder or file.
        columns: the columns besides ``id``.
    """

    layout: str
    """Name of the layout, for people."""
    reads_folders = True
    """Whether every image or table that is added to the place becomes a row."""

    def __init__(self, place: Path, columns: Sequence[str]) -> None:
        self.place = place
        self.columns: Mapping[str, str] = {name: TYPES[name] for name in columns}

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of rows, refused ones included."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of which rows there are: names of files, entries of lists, sizes of tables.

        Files of single images and their words are not read for it.
        """

    @abstractmethod
    def row(self, number: int) -> Row:
        """Reads a row.

        Raises:
            Refused: the row cannot be used.
        """

    def rows(self, start: int, count: int) -> Iterator[Row | Refused]:
        """Yields the rows from ``start`` on, and a ``Refused`` for each that cannot be used.

        Raises:
            DataError: the place is gone.
        """
        self.check_there()
        for number in range(start, min(start + count, self.count)):
            try:
                yield self.row(number)
            except Refused as refusal:
                yield refusal

    def check_there(self) -> None:
        """Raises a DataError if the place is gone, which is no fault of its rows."""
        if not self.place.exists():
            raise DataError(f"Source: '{self.place}' does not exist any more. Restore it and run again.")

    def describe(self) -> str:
        """Says in one line what was found."""
        return f"{self.layout} '{self.place.name}': {self.count} rows with {', '.join(self.columns)}"


@dataclass(frozen=True)
class Words:
    """The texts of a row, "" if unknown."""

    caption: str = ""
    instruction: str = ""
    edited_caption: str = ""

    def cells(self) -> dict[str, Any]:
        """The columns of texts, null where a text is unknown."""
        return {
            CAPTION: self.caption or None,
            INSTRUCTION: self.instruction or None,
            EDITED_CAPTION: self.edited_caption or None,
        }


def hash_of(*parts: object) -> str:
    """Hash of values with a ``repr`` that depends on their content alone."""
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()[:32]


def unique_ids(names: Iterable[str]) -> tuple[str, ...]:
    """Makes ids of names: without dots, which mark branches, and with a number where an id is taken."""
    # Id -> the last number that was tried for it.
    taken: dict[str, int] = {}
    ids = []
    for name in names:
        plain = new = name.replace(".", "-")
        while new in taken:
            taken[plain] += 1
            new = f"{plain}-{taken[plain]}"
        taken[new] = 1
        ids.append(new)
    return tuple(ids)


def file_cell(path: Path, root: Path) -> dict[str, Any]:
    """Reads the cell of an image file, with its path inside ``root``.

    Raises:
        Refused: the file is missing or no image.
    """
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    try:
        return image_cell(read_file(path, _MOST_BYTES), name)
    except OSError as error:
        raise Refused(NO_IMAGE, f"Image '{name}' cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise Refused(BAD_IMAGE, f"Image '{name}' cannot be read ({error}).") from error


def image_cell(content: bytes, name: str) -> dict[str, Any]:
    """Returns the cell of an encoded image after decoding it. What is neither PNG nor JPEG becomes PNG.

    Raises:
        Refused: it is no image, damaged, or larger than 64 megapixels.
    """
    kept = content.startswith(_KEPT)
    try:
        opened = open_image(BytesIO(content), name, _reduction if kept else _no_reduction)
    except PairError as error:
        raise Refused(BAD_IMAGE, str(error)) from error
    if not kept:
        file = BytesIO()
        on_white(opened.image).save(file, "PNG")
        content = file.getvalue()
    return {"bytes": content, "path": name}


def row_of(name: str, cells: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    """Returns a row with its id and all columns; those without a cell are null."""
    return {ID: name, **{column: cells.get(column) for column in columns}}


def no_rows(place: Path, wanted: str) -> DataError:
    """The error of a place without a single row."""
    return DataError(f"Source: '{place}' holds no rows. {wanted}")


def _reduction(width: int, height: int) -> int:
    """JPEG files are checked faster at a small scale."""
    return min(width, height) // _CHECKED_SIDE


def _no_reduction(_width: int, _height: int) -> int:
    return 1
