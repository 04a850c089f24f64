"""Benchmark items whose images are still on disk, in image files or .parquet tables.

Small and picklable, because workers get these items and load the images themselves.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ....errors import DataError, EvaluationError, InstructBrushError, PairError, RegionError
from ....pairs.pairs import MIN_SIDE
from ....regions.mask_files import read_mask
from ....regions.masks import fit_mask
from ....storage.image_files import decode_image
from ....storage.json_text import parse_json
from ....storage.parquet import check_columns, image_bytes, open_table, row_batches
from ..items import Item, Turn

# Remarks list this many unusable rows, and count the others.
_MAX_LISTED = 20


@dataclass(frozen=True)
class ParquetImage:
    """An image in a .parquet table: a struct of ``bytes`` and ``path``, as the datasets library writes it."""

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
        """Name for messages, such as "dev-00000-of-00004.parquet row 12 source_img"."""
        return f"{self.file.name} row {self.row} {self.column}"

    def open(self) -> BytesIO:
        """Returns the bytes of the image.

        Raises:
            DataError: the table cannot be read, or the cell is empty.
            EvaluationError: the row no longer exists.
        """
        with open_table(self.file) as table:
            # Row by row, because a group of a hundred rows holds a gigabyte of images.
            for place, row in enumerate(row_batches(table, self.file, [self.column], 1, self.group)):
                if place == self.place:
                    return BytesIO(image_bytes(row[0][self.column], self.name))
        raise EvaluationError(
            f"'{self.file.name}' has no row {self.row} any more. It was changed during the run: "
            "start again with another --out folder."
        )


@dataclass(frozen=True)
class ImageFile:
    """An image file."""

    path: Path

    @property
    def name(self) -> str:
        """Name for messages."""
        return self.path.name

    def open(self) -> BytesIO:
        """Returns the bytes of the file.

        Raises:
            EvaluationError: the file is missing or empty.
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


StoredImage = ParquetImage | ImageFile


@dataclass(frozen=True)
class StoredTurn:
    """A ``Turn`` whose images are not loaded."""

    words: str
    source: StoredImage
    truth: StoredImage | None = None
    mask: StoredImage | None = None
    caption: str | None = None
    caption_before: str | None = None


@dataclass(frozen=True)
class StoredItem:
    """An ``Item`` whose images are not loaded: a ``Source`` of core/evaluation/runner.py."""

    name: str
    scope: str
    turns: tuple[StoredTurn, ...]

    @property
    def words(self) -> str:
        """The instructions of all turns."""
        return " → ".join(turn.words for turn in self.turns)

    def load(self) -> Item:
        """Reads the images as 8-bit RGB in their own size, upright, transparent areas white.

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
    """The items of a benchmark, and remarks on them for the reader of its tables."""

    items: tuple[StoredItem, ...]
    remarks: tuple[str, ...] = ()


def left_out_remarks(unusable: Sequence[InstructBrushError], noun: str) -> list[str]:
    """Returns remarks that list unusable rows or images and count them; ``noun`` is "row" or "image"."""
    if not unusable:
        return []
    return [
        *(f"Left out: {error}" for error in unusable[:_MAX_LISTED]),
        f"{len(unusable)} {noun}{'s' * (len(unusable) > 1)} left out.",
    ]


def _read_mask(item: str, mask: StoredImage, source: Tensor) -> Tensor:
    """Reads a mask of 0 and 1, scaled to the size of its image."""
    try:
        scaled = fit_mask(read_mask(mask.open(), mask.name), *source.shape[:2], batch=1)[0]
    except (RegionError, DataError, EvaluationError) as error:
        raise EvaluationError(f"Item '{item}': {error}") from error
    return (scaled >= 0.5).float()


def check_header(content: BytesIO, name: str) -> tuple[int, int]:
    """Returns (width, height) from an image's header. Cheap enough to check thousands before a run.

    Raises:
        EvaluationError: this is not an image, or it is too small to measure.
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
    """Returns the content of a benchmark's JSON file.

    Raises:
        EvaluationError: the file cannot be read, or is not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"'{path.name}' cannot be read ({error}). Unpack the benchmark again."
        ) from error


def shards(path: Path, split: str) -> list[Path]:
    """Returns the .parquet files of a split in order.

    Args:
        path: a file, or a folder that holds the files itself or in ``data``.
        split: start of the file names.

    Raises:
        EvaluationError: there are no files, or one of "...-00001-of-00004.parquet" is missing.
    """
    if path.is_file():
        return [path]
    all_files = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    files = [file for file in all_files if file.name.startswith((f"{split}-", f"{split}."))]
    if not files:
        splits = sorted({file.name.split("-")[0] for file in all_files})
        present = f"its .parquet files are {', '.join(splits)}" if splits else "it holds no .parquet files"
        raise EvaluationError(
            f"'{path}' has no part '{split}': {present}. Give the folder as it was downloaded, and --split."
        )
    for file in files:
        _, _, rest = file.stem.partition("-of-")
        digits = rest.split("-")[0]
        expected = int(digits) if digits.isdigit() else len(files)
        if expected != len(files):
            raise EvaluationError(
                f"'{path.name}' holds {len(files)} of the {expected} files of '{split}'. "
                "Download the missing ones."
            )
    return files


OnUnusableRow = Callable[[Mapping[str, Any], InstructBrushError], None]
"""Called with the texts of an unusable row and the reason. May raise to stop."""


def raise_error(_row: Mapping[str, Any], error: InstructBrushError) -> None:
    """Raises the error: stops at the first unusable row."""
    raise error


def table_rows(
    file: Path,
    texts: Sequence[str],
    images: Sequence[str],
    optional_images: Sequence[str] = (),
    on_unusable: OnUnusableRow = raise_error,
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a .parquet file as column -> value.

    Values of image columns are ``(ParquetImage, (width, height))``, with a checked image header.

    Args:
        file: the table; a few rows are in memory at a time.
        texts: columns that are returned as they are.
        images: columns of images.
        optional_images: columns of images that may be null; the value is then None.
        on_unusable: called for a row with an image that is missing, unreadable or too small.

    Raises:
        DataError: a column is missing, or the file is damaged.
    """
    image_columns = [*images, *optional_images]
    columns = [*texts, *image_columns]
    with open_table(file) as table:
        check_columns(table, file, columns)
        number = -1
        for group in range(table.num_row_groups):
            batches = row_batches(table, file, columns, 8, group)
            for place, row in enumerate(itertools.chain.from_iterable(batches)):
                number += 1
                values: dict[str, Any] = {name: row[name] for name in texts}
                try:
                    for column in image_columns:
                        if column in optional_images and row[column] is None:
                            values[column] = None
                            continue
                        image = ParquetImage(file, group, place, number, column)
                        header = BytesIO(image_bytes(row[column], image.name))
                        values[column] = (image, check_header(header, image.name))
                except (DataError, EvaluationError) as error:
                    on_unusable(values, error)
                    continue
                yield values
