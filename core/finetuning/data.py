"""Pairs with words, and masks and indirect instructions where there are any: rows of parquet tables as UltraEdit's, or a folder with ``pairs.json``.

Pictures are read when needed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from ..errors import PairError
from ..learning.pairs import check_pair, indirect_texts, read_manifest
from ..picture_files import decode_picture
from ..tables import check_columns, open_table, picture_bytes, row_batches

BEFORE, AFTER, WORDS, MASK = "source_image", "edited_image", "edit_prompt", "mask_image"
"""Columns of UltraEdit's tables. The last is missing, or null in a row, where the edit is free-form."""
REASONING = "reasoning"
"""A further column, where there are indirect instructions: a text or a list of texts."""

_GREY = 8 / 255
"""How far the colours of a mask's pixel may lie apart: JPEG's rounding."""
_DARKEST_GREY = 1 / 255


@dataclass(frozen=True)
class Picture:
    """A picture that was not decoded yet."""

    content: bytes | Path
    name: str

    def read(self) -> Tensor:
        """[H, W, 3] fp32 in 0..1.

        Raises:
            PairError: it cannot be read.
        """
        return decode_picture(BytesIO(self.content) if isinstance(self.content, bytes) else self.content, self.name)

    def stored(self) -> bytes:
        """The bytes that it is stored as.

        Raises:
            PairError: the file cannot be read.
        """
        try:
            return self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        except OSError as error:
            raise PairError(f"Picture '{self.name}' cannot be read ({error}). Put it back.") from error


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
        """Scaled so that the shorter side is ``side``, and cropped to a square. Pictures and mask are treated as one, so they stay in place.

        Args:
            side: pixels.
            rng: where the crop lies, always so that some of the region is in it, and whether left and right change places. None is the middle.
            flip: chance that they do.
        """
        stack = torch.cat([self.before, self.after, self.mask[..., None]], dim=2).movedim(2, 0)
        height, width = stack.shape[1:]
        if min(height, width) != side:
            size = (side, max(round(width * side / height), side)) if height < width else (max(round(height * side / width), side), side)
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
    before: Picture
    after: Picture
    mask: Picture | None
    reasoning: tuple[str, ...] = ()
    """Indirect instructions that ask for the same edit."""

    def read(self) -> Triplet:
        """Decode and check.

        Raises:
            PairError: no words, a picture that cannot be read, sizes that differ, a mask that is coloured or black all over.
        """
        if not self.words.strip():
            raise PairError(f"Pair '{self.name}' has no words. Say what the edit is, or take the pair out.")
        pair = check_pair(self.name, self.before.read(), self.after.read())
        mask = torch.ones(pair.before.shape[:2]) if self.mask is None else self._region(self.mask.read(), pair.before)
        return Triplet(pair.before, pair.after, mask, self.words.strip())

    def _region(self, picture: Tensor, before: Tensor) -> Tensor:
        if picture.shape != before.shape:
            raise PairError(
                f"Pair '{self.name}': the mask is {picture.shape[1]} x {picture.shape[0]}, the pictures are {before.shape[1]} x {before.shape[0]}. "
                "All three must have one size."
            )
        if (picture.amax(2) - picture.amin(2)).max() > _GREY:
            raise PairError(f"Pair '{self.name}': the mask is a coloured picture. A mask is white where the edit acts and black elsewhere.")
        if picture.max() < _DARKEST_GREY:
            raise PairError(f"Pair '{self.name}': the mask is black all over. Paint white where the edit acts; a pair without a region has no mask at all.")
        return picture[..., 0]


@dataclass(frozen=True)
class TableBlock:
    """A row group of a parquet file: so much is read at once."""

    file: Path
    group: int
    first: int
    """Row of the file that the group begins with."""
    count: int
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        """Which rows they are, wherever the file lies."""
        return f"{self.file.name} {self.group} {self.count}"

    def rows(self) -> list[Row]:
        """The rows, pictures as the bytes they are stored as.

        Raises:
            DataError: the file is damaged, or a picture is missing.
            PairError: indirect instructions that are none.
        """
        with open_table(self.file) as table:
            cells = [row for batch in row_batches(table, self.file, self.columns, 64, self.group) for row in batch]
        rows = []
        for number, row in enumerate(cells, self.first):
            name = f"{self.file.name} row {number}"
            pictures = {
                column: Picture(picture_bytes(row[column], f"{name} {column}"), f"{name} {column}")
                for column in (BEFORE, AFTER, MASK)
                if column in (BEFORE, AFTER) or row.get(column) is not None
            }
            rows.append(Row(name, row[WORDS] or "", pictures[BEFORE], pictures[AFTER], pictures.get(MASK), indirect_texts(row.get(REASONING), name)))
        return rows


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
        return repr([(row.name, row.words, row.before.name, row.after.name, row.mask and row.mask.name, *row.reasoning) for row in self.pairs])

    def rows(self) -> list[Row]:
        """The pairs."""
        return list(self.pairs)


Block = TableBlock | FolderBlock


def find_blocks(places: Sequence[Path]) -> tuple[Block, ...]:
    """Everything there is to train on; of tables only the footers are read.

    Args:
        places: .parquet files, folders with such files at any depth, folders with ``pairs.json`` (see :func:`~..learning.pairs.read_manifest`).

    Raises:
        PairError: nothing there, or a malformed list.
        DataError: a table without one of the columns, a damaged one, or pyarrow is missing.
    """
    blocks: list[Block] = []
    for place in places:
        if not place.exists():
            raise PairError(f"Data: '{place}' does not exist. Give a folder with .parquet files or with pairs.json.")
        files = [place] if place.is_file() else sorted(place.rglob("*.parquet"))
        if files:
            blocks += [block for file in files for block in _table_blocks(file)]
        elif (place / "pairs.json").is_file():
            blocks.append(_folder_block(place))
        else:
            raise PairError(
                f"Data: '{place}' holds neither .parquet files nor pairs.json. Fine-tuning needs words: write pairs.json, a list of "
                '{"before": file, "after": file, "words": text} with "mask": file where there is one.'
            )
    blocks = [block for block in blocks if block.count]
    if not blocks:
        raise PairError(f"Data: {', '.join(str(place) for place in places)}: there are no pairs. Download the files again.")
    return tuple(blocks)


def digest_of(blocks: Sequence[Block]) -> str:
    """Hex digits that say which pairs they are."""
    return hashlib.sha256(repr([block.name for block in blocks]).encode()).hexdigest()


def first_rows(blocks: Sequence[Block], number: int) -> list[Row]:
    """The pairs that the data begins with: always the same ones, to look at.

    Raises:
        DataError: a file is damaged.
    """
    found: list[Row] = []
    for block in blocks:
        if len(found) < number:
            found += block.rows()[: number - len(found)]
    return found


def _table_blocks(file: Path) -> list[TableBlock]:
    with open_table(file) as table:
        check_columns(table, file, (BEFORE, AFTER, WORDS))
        columns = (BEFORE, AFTER, WORDS, *(name for name in (MASK, REASONING) if name in table.schema_arrow.names))
        counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    return [TableBlock(file, group, sum(counts[:group]), count, columns) for group, count in enumerate(counts)]


def _folder_block(folder: Path) -> FolderBlock:
    def picture(path: Path) -> Picture:
        return Picture(path, str(path.relative_to(folder.resolve())))

    return FolderBlock(
        tuple(
            Row(f"{number} of {folder.name}", pair.words, picture(pair.before), picture(pair.after), picture(pair.mask) if pair.mask else None, pair.reasoning)
            for number, pair in enumerate(read_manifest(folder))
        )
    )
