"""Pairs with words, and masks and indirect instructions where there are any: rows of parquet tables, or folders as :mod:`..pairs.layouts` reads them.

Images are read when needed.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from ..errors import DataError, PairError, RegionError
from ..pairs import layouts
from ..pairs.layouts import direct_words, first_of, folders_below, indirect_texts, pairs_below, read_list
from ..pairs.pairs import alike, check_pair
from ..regions.mask_files import read_mask
from ..regions.masks import fit_mask
from ..storage.image_files import decode_image
from ..storage.image_sizes import cropped_as_by_vae
from ..storage.parquet import check_columns, image_bytes, open_table, row_batches

logger = logging.getLogger(__name__)

BEFORE, AFTER, WORDS = "source_image", "edited_image", "edit_prompt"
"""Columns of UltraEdit's tables; :mod:`..pairs.layouts` has the names that others give them."""

_DARKEST_GREY = 1 / 255
_MOST_TOLD = 20
"""Entries of a list that were left out and are told one by one; all are counted."""


@dataclass(frozen=True)
class StoredImage:
    """An image that was not decoded yet."""

    content: bytes | Path
    name: str

    def read(self) -> Tensor:
        """[H, W, 3] fp32 in 0..1.

        Raises:
            PairError: it cannot be read.
        """
        return decode_image(self._file(), self.name)

    def read_mask(self) -> Tensor:
        """The mask [h, w] in 0..1 that it is.

        Raises:
            RegionError: it cannot be read, or marks no region.
        """
        return read_mask(self._file(), self.name)

    def stored(self) -> bytes:
        """The bytes that it is stored as.

        Raises:
            PairError: the file cannot be read.
        """
        try:
            return self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        except OSError as error:
            raise PairError(f"Image '{self.name}' cannot be read ({error}). Put it back.") from error

    def _file(self) -> BytesIO | Path:
        return BytesIO(self.content) if isinstance(self.content, bytes) else self.content


@dataclass(frozen=True)
class Triplet:
    """A pair with words and region, decoded."""

    before: Tensor
    """[H, W, 3] fp32 in 0..1."""
    after: Tensor
    """Of the same size."""
    mask: Tensor
    """[H, W] in 0..1, 1 = the edit acts here; ones where the pair is free-form."""
    words: str

    def framed(self, side: int, rng: Generator | None = None, flip: float = 0.0) -> "Triplet":
        """Scaled so that the shorter side is ``side``, and cropped to a square. Images and mask are treated as one, so they stay in place.

        Args:
            side: pixels.
            rng: where the crop lies, always so that some of the region is in it, and whether left and right change places. None is the middle.
            flip: chance that they do.
        """
        stack = torch.cat([self.before, self.after, self.mask[..., None]], dim=2).movedim(2, 0)
        height, width = stack.shape[1:]
        if min(height, width) != side:
            size = (
                (side, max(round(width * side / height), side))
                if height < width
                else (max(round(height * side / width), side), side)
            )
            stack = functional.interpolate(stack[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        top, left = (_offset(stack[6].amax(1 - axis), side, rng) for axis in (0, 1))
        stack = stack[:, top : top + side, left : left + side]
        if rng is not None and rng.random() < flip:
            stack = stack.flip(2)
        stack = stack.movedim(0, 2).contiguous()
        return Triplet(stack[..., :3], stack[..., 3:6], stack[..., 6], self.words)


def _offset(line: Tensor, side: int, rng: Generator | None) -> int:
    """Where a crop of ``side`` begins along an axis; ``line`` is the largest value of the mask at each of its places."""
    room = len(line) - side
    if room == 0 or rng is None:
        return room // 2
    marked = (line >= 0.5 * line.max()).nonzero()[:, 0]
    place = int(marked[rng.integers(len(marked))])
    return int(rng.integers(max(place - side + 1, 0), min(place, room) + 1))


@dataclass(frozen=True)
class Row:
    """A pair that was not decoded yet."""

    name: str
    """For messages."""
    words: str
    before: StoredImage
    after: StoredImage
    mask: StoredImage | None
    reasoning: tuple[str, ...] = ()
    """Indirect instructions that ask for the same edit."""
    fault: str = ""
    """Why it cannot be used, where that shows before anything is decoded."""

    def read(self) -> Triplet:
        """Decode and check. Images and mask of one aspect ratio are brought to one size.

        Raises:
            PairError: no words, an image that cannot be read, different aspect ratios, a mask that is coloured or black all over.
        """
        if self.fault:
            raise PairError(self.fault)
        if not self.words.strip():
            raise PairError(f"Pair '{self.name}' has no words. Say what the edit is, or take the pair out.")
        before, after, _ = alike(self.name, self.before.read(), self.after.read())
        pair = check_pair(self.name, before, after)
        mask = torch.ones(before.shape[:2]) if self.mask is None else self._region(self.mask, before)
        return Triplet(pair.before, pair.after, mask, self.words.strip())

    def _region(self, image: StoredImage, before: Tensor) -> Tensor:
        height, width = before.shape[:2]
        try:
            mask = image.read_mask()
            cut = cropped_as_by_vae(mask)
            mask = cut if cut.shape == (height, width) else fit_mask(mask, height, width, batch=1)[0]
        except RegionError as error:
            raise PairError(f"Pair '{self.name}': {error}") from error
        if mask.max() < _DARKEST_GREY:
            raise PairError(
                f"Pair '{self.name}': the mask is black all over. Paint white where the edit acts; a pair without a region has no mask at all."
            )
        return mask


@dataclass(frozen=True)
class Columns:
    """What a table calls the parts of a pair."""

    before: str
    after: str
    words: str
    mask: str | None
    """Missing, or null in a row, where the edit is free-form."""
    reasoning: str | None

    @property
    def names(self) -> list[str]:
        """Those that are there."""
        return [
            name
            for name in (self.before, self.after, self.words, self.mask, self.reasoning)
            if name is not None
        ]


@dataclass(frozen=True)
class TableBlock:
    """A row group of a parquet file: so much is read at once."""

    file: Path
    group: int
    first: int
    """Row of the file that the group begins with."""
    count: int
    columns: Columns

    @property
    def name(self) -> str:
        """Which rows they are, wherever the file lies."""
        return f"{self.file.name} {self.group} {self.count}"

    def rows(self) -> list[Row]:
        """The rows, images as the bytes they are stored as.

        Raises:
            DataError: the file is damaged.
        """
        with open_table(self.file) as table:
            cells = [
                row
                for batch in row_batches(table, self.file, self.columns.names, 64, self.group)
                for row in batch
            ]
        return [
            self._row(f"{self.file.name} row {number}", row) for number, row in enumerate(cells, self.first)
        ]

    def _row(self, name: str, row: Mapping[str, Any]) -> Row:
        names = self.columns

        def image(column: str) -> StoredImage:
            return StoredImage(image_bytes(row[column], f"{name} {column}"), f"{name} {column}")

        try:
            mask = image(names.mask) if names.mask and row[names.mask] is not None else None
            reasoning = indirect_texts(row[names.reasoning] if names.reasoning else None, name)
            return Row(
                name, direct_words(row[names.words]), image(names.before), image(names.after), mask, reasoning
            )
        except (DataError, PairError) as error:
            nothing = StoredImage(b"", name)
            return Row(name, "", nothing, nothing, None, fault=str(error))


@dataclass(frozen=True)
class FolderBlock:
    """The pairs of a folder."""

    pairs: tuple[Row, ...]

    @property
    def count(self) -> int:
        """How many pairs."""
        return len(self.pairs)

    @property
    def name(self) -> str:
        """Which pairs they are."""
        return repr(
            [
                (
                    row.name,
                    row.words,
                    row.before.name,
                    row.after.name,
                    row.mask and row.mask.name,
                    *row.reasoning,
                )
                for row in self.pairs
            ]
        )

    def rows(self) -> list[Row]:
        """The pairs."""
        return list(self.pairs)


Block = TableBlock | FolderBlock


def find_blocks(places: Sequence[Path], strict: bool = False) -> tuple[Block, ...]:
    """Everything there is to train on; of tables only the footers are read.

    Args:
        places: .parquet files, folders with such files at any depth, folders of pairs with words (see :func:`~..pairs.layouts.pairs_in`), their lists.
        strict: stop at the first entry of a list that cannot be used. Otherwise it is left out, and logged.

    Raises:
        PairError: nothing there, or a malformed list.
        DataError: a table without one of the columns, a damaged one, or pyarrow is missing.
    """
    blocks: list[Block] = []
    for place in places:
        if not place.exists():
            raise PairError(
                f"Data: '{place}' does not exist. Give a folder with .parquet files or with pairs.json."
            )
        tables = _tables(place)
        blocks += (
            [block for file in tables for block in _table_blocks(file)]
            if tables
            else [_folder_block(place, strict)]
        )
    blocks = [block for block in blocks if block.count]
    if not blocks:
        raise PairError(
            f"Data: {', '.join(str(place) for place in places)}: there are no pairs. Download the files again."
        )
    return tuple(blocks)


def digest_of(blocks: Sequence[Block]) -> str:
    """Hex digits that say which pairs they are."""
    return hashlib.sha256(repr([block.name for block in blocks]).encode()).hexdigest()


def first_rows(blocks: Sequence[Block], number: int) -> list[Row]:
    """The pairs that the data begins with, of those that can be read: always the same ones, to look at.

    Raises:
        DataError: a file is damaged.
    """
    found: list[Row] = []
    for row in (row for block in blocks for row in block.rows()):
        if len(found) == number:
            break
        with suppress(PairError):
            replace(row, words=next(filter(None, (row.words, *row.reasoning)), "")).read()
            found.append(row)
    return found


def _tables(place: Path) -> list[Path]:
    """The .parquet files that a place is or holds."""
    if place.is_file():
        return [place] if place.suffix == ".parquet" else []
    return sorted(
        file
        for folder in (place, *folders_below(place))
        for file in folder.glob("*.parquet")
        if file.is_file()
    )


def _table_blocks(file: Path) -> list[TableBlock]:
    with open_table(file) as table:
        check_columns(table, file, ())
        present = dict.fromkeys(table.schema_arrow.names, True)
        found = [
            first_of(names, present)
            for names in (layouts.BEFORE, layouts.AFTER, layouts.WORDS, layouts.MASK, (layouts.REASONING,))
        ]
        before, after, words = (
            name or usual for name, usual in zip(found[:3], (BEFORE, AFTER, WORDS), strict=True)
        )
        check_columns(table, file, (before, after, words))
        counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    columns = Columns(before, after, words, found[3], found[4])
    return [
        TableBlock(file, group, sum(counts[:group]), count, columns) for group, count in enumerate(counts)
    ]


def _folder_block(place: Path, strict: bool) -> FolderBlock:
    """The pairs of a folder, or of one of its lists."""
    folder = place.parent if place.is_file() else place
    refused: list[PairError] = []
    found = read_list(place, refused.append) if place.is_file() else pairs_below(place, refused.append)
    if refused and (strict or not found):
        raise refused[0]
    for error in refused[:_MOST_TOLD]:
        logger.warning("instructbrush: skipped: %s", error)
    if refused:
        logger.warning(
            "instructbrush: %d pairs of '%s' were skipped, %d remain.", len(refused), folder.name, len(found)
        )
    if not any(pair.words or pair.reasoning for pair in found):
        what = (
            f"holds {len(found)} pairs without words" if found else "holds neither .parquet files nor pairs"
        )
        raise PairError(
            f"Data: '{place}' {what}. Fine-tuning needs words: write pairs.json, a list of "
            '{"before": file, "after": file, "words": text} with "mask": file where there is one.'
        )

    def image(path: Path) -> StoredImage:
        return StoredImage(path, str(path.relative_to(folder)))

    return FolderBlock(
        tuple(
            Row(
                f"{number} of {folder.name}",
                pair.words,
                image(pair.before),
                image(pair.after),
                image(pair.mask) if pair.mask else None,
                pair.reasoning,
            )
            for number, pair in enumerate(found)
        )
    )
