"""Where a benchmark keeps its images: files of their own, or cells of parquet tables. Small and picklable; read when a worker needs them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ...errors import DataError, EvaluationError, InstructBrushError, PairError, RegionError
from ...pairs.pairs import MIN_SIDE
from ...regions.mask_files import read_mask
from ...regions.masks import fit_mask
from ...storage.image_files import decode_image
from ...storage.json_text import parse_json
from ...storage.parquet import check_columns, image_bytes, open_table, row_batches
from .items import Item, Turn

_MOST_TOLD = 20
"""Faults that remarks name one by one; all are counted."""


@dataclass(frozen=True)
class Cell:
    """An image in a parquet table: a struct of ``bytes`` and ``path``, as the datasets library writes it."""

    file: Path
    group: int
    """Row group."""
    place: int
    """Row within the group."""
    row: int
    """Row within the file, for messages."""
    column: str

    @property
    def name(self) -> str:
        """Such as "dev-00000-of-00004.parquet row 12 source_img"."""
        return f"{self.file.name} row {self.row} {self.column}"

    def open(self) -> BytesIO:
        """The image's bytes.

        Raises:
            DataError: the table cannot be read there, or the cell is empty.
            EvaluationError: the row is gone.
        """
        with open_table(self.file) as table:
            # Row by row: a group of a hundred rows holds a gigabyte of images.
            for place, row in enumerate(row_batches(table, self.file, [self.column], 1, self.group)):
                if place == self.place:
                    return BytesIO(image_bytes(row[0][self.column], self.name))
        raise EvaluationError(
            f"'{self.file.name}' has no row {self.row} any more. It was changed during the run: start again with another --out folder."
        )


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def open(self) -> BytesIO:
        """The file's bytes.

        Raises:
            EvaluationError: it is missing or empty.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise EvaluationError(
                f"Image '{self.path.name}' is missing in {self.path.parent}. Unpack the benchmark again."
            ) from error
        if not content:
            raise EvaluationError(f"Image '{self.path.name}' is empty (0 bytes). Unpack the benchmark again.")
        return BytesIO(content)


Stored = Cell | ImageFile


@dataclass(frozen=True)
class StoredTurn:
    """A :class:`~.items.Turn` whose images were not read yet."""

    words: str
    source: Stored
    truth: Stored | None = None
    mask: Stored | None = None
    caption: str | None = None
    caption_before: str | None = None


@dataclass(frozen=True)
class StoredItem:
    """An item, read when it is needed (a ``Source`` of :mod:`..runner`)."""

    name: str
    scope: str
    turns: tuple[StoredTurn, ...]

    @property
    def words(self) -> str:
        """The instructions of all turns."""
        return " → ".join(turn.words for turn in self.turns)

    def load(self) -> Item:
        """Every image upright, on white where it was transparent, 8 bit, RGB, in its own size.

        Raises:
            EvaluationError: an image is missing or cannot be read, or a mask does not fit its source.
        """
        turns = []
        for turn in self.turns:
            try:
                source = decode_image(turn.source.open(), turn.source.name)
                truth = decode_image(turn.truth.open(), turn.truth.name) if turn.truth else None
            except (PairError, DataError, EvaluationError) as error:
                raise EvaluationError(f"Item '{self.name}': {error}") from error
            mask = _read_mask(self.name, turn.mask, source) if turn.mask else None
            turns.append(Turn(turn.words, source, truth, mask, turn.caption, turn.caption_before))
        return Item(self.name, self.scope, tuple(turns))


@dataclass(frozen=True)
class ItemSet:
    """A benchmark's items and what a reader of its tables must know about them."""

    items: tuple[StoredItem, ...]
    remarks: tuple[str, ...] = ()


def left_out(refused: Sequence[InstructBrushError], what: str) -> list[str]:
    """Remarks on what could not be used: the first ones one by one, and how many there are."""
    if not refused:
        return []
    return [
        *(f"Left out: {error}" for error in refused[:_MOST_TOLD]),
        f"{len(refused)} {what}{'s' * (len(refused) > 1)} left out.",
    ]


def _read_mask(item: str, mask: Stored, source: Tensor) -> Tensor:
    """A mask of 0 and 1 at its image's size."""
    try:
        found = fit_mask(read_mask(mask.open(), mask.name), *source.shape[:2], batch=1)[0]
    except (RegionError, DataError, EvaluationError) as error:
        raise EvaluationError(f"Item '{item}': {error}") from error
    return (found >= 0.5).float()


def check_header(content: BytesIO, name: str) -> tuple[int, int]:
    """(width, height) of an image from its header alone, so that a benchmark's thousands are checked before anything runs.

    Raises:
        EvaluationError: no image, or one too small to be measured.
    """
    try:
        with Image.open(content) as image:
            size = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EvaluationError(
            f"Image '{name}' cannot be read ({error}). Unpack or download the benchmark again."
        ) from error
    if min(size) < MIN_SIDE:
        raise EvaluationError(
            f"Image '{name}' is {size[0]} x {size[1]}: each side needs at least {MIN_SIDE} pixels."
        )
    return size


def read_listing(path: Path) -> Any:
    """What a benchmark's JSON file holds.

    Raises:
        EvaluationError: it cannot be read, or is no JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"'{path.name}' cannot be read ({error}). Unpack the benchmark again."
        ) from error


def shards(path: Path, split: str) -> list[Path]:
    """The parquet files of a split, in order: one file, or those of a folder or of its ``data`` folder whose name begins with the split's.

    Raises:
        EvaluationError: there are none, or one of "...-00001-of-00004.parquet" is missing.
    """
    if path.is_file():
        return [path]
    everything = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    found = [file for file in everything if file.name.startswith((f"{split}-", f"{split}."))]
    if not found:
        there = (
            f"its .parquet files are {', '.join(sorted({file.name.split('-')[0] for file in everything}))}"
            if everything
            else "it holds no .parquet files"
        )
        raise EvaluationError(
            f"'{path}' has no part '{split}': {there}. Give the folder as it was downloaded, and --split."
        )
    for file in found:
        _, _, count = file.stem.partition("-of-")
        wanted = int(digits) if (digits := count.split("-")[0]).isdigit() else len(found)
        if wanted != len(found):
            raise EvaluationError(
                f"'{path.name}' holds {len(found)} of the {wanted} files of '{split}'. Download the missing ones."
            )
    return found


Refused = Callable[[Mapping[str, Any], InstructBrushError], None]
"""Told of a row that cannot be used: its texts, and why; raises where that is the end."""


def stop(_row: Mapping[str, Any], error: InstructBrushError) -> None:
    """Stop at the first row that cannot be used.

    Raises:
        InstructBrushError: always.
    """
    raise error


def table_rows(
    file: Path,
    texts: Sequence[str],
    images: Sequence[str],
    maybe: Sequence[str] = (),
    refused: Refused = stop,
) -> Iterator[dict[str, Any]]:
    """Every row of a parquet file: the columns ``texts`` as values, ``images`` as a checked :class:`Cell` and its size ``(cell, (w, h))``.

    Args:
        file: read a few rows at a time.
        texts: names of columns that must be there.
        images: likewise, of images.
        maybe: images whose cells may be null; the value is then None.
        refused: told of a row with an image that is missing, cannot be read or is too small.

    Raises:
        DataError: a column is missing, or the file is damaged.
    """
    with open_table(file) as table:
        check_columns(table, file, (*texts, *images, *maybe))
        number = 0
        for group in range(table.num_row_groups):
            for place, row in enumerate(
                row
                for batch in row_batches(table, file, [*texts, *images, *maybe], 8, group)
                for row in batch
            ):
                found: dict[str, Any] = {name: row[name] for name in texts}
                try:
                    for column in (*images, *maybe):
                        cell = Cell(file, group, place, number, column)
                        if column in maybe and row[column] is None:
                            found[column] = None
                        else:
                            found[column] = (
                                cell,
                                check_header(BytesIO(image_bytes(row[column], cell.name)), cell.name),
                            )
                except (DataError, EvaluationError) as error:
                    refused(found, error)
                else:
                    yield found
                number += 1
