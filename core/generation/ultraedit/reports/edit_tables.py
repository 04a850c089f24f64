"""Reads any table of edits: this pack's, UltraEdit's, and those of other data sets with usual names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from ....errors import DataError, PairError
from ....pairs import pair_lists
from ....pairs.pair_lists import direct_words
from ....storage.image_files import decode_image
from ....storage.parquet import check_columns, image_bytes, open_table, row_batches
from ...scoring import SCORES
from ..regions import FREE_FORM, REGION

# Names of the columns with captions.
SOURCE_CAPTIONS = (*pair_lists.CAPTION, "input")
TARGET_CAPTIONS = (*pair_lists.EDITED_CAPTION, "output")
# Names that other tables give a score.
_SCORE_NAMES = {"dinov2_sim": ("dinov2_sim", "dinov2", "dino_sim")}
# A mask whose darkest pixel is lighter covers the whole image.
_WHITE = 250 / 255
_BATCH = 64


@dataclass(frozen=True)
class TableEdit:
    """An edit of a table. Images stay encoded."""

    name: str
    instruction: str
    data_type: str
    scores: Mapping[str, float | None]
    """Stored scores, see ``SCORES``."""
    source_caption: str = ""
    target_caption: str = ""
    source: Any = None
    target: Any = None

    def images(self) -> tuple[Tensor, Tensor]:
        """Decodes source and target, [H, W, 3] in 0..1. The target is scaled to the source's size.

        Raises:
            DataError: a cell holds no image.
            PairError: an image cannot be read, or the sizes have other aspect ratios.
        """
        from ....pairs.pairs import alike

        source, target = (
            decode_image(BytesIO(image_bytes(cell, self.name)), self.name)
            for cell in (self.source, self.target)
        )
        first, second, _ = alike(self.name, source, target)
        return first, second


@dataclass(frozen=True)
class EditTable:
    """The tables of a place."""

    files: tuple[Path, ...]

    def edits(self, with_images: bool = False) -> Iterator[TableEdit]:
        """Yields the edits; those without an instruction are left out.

        Args:
            with_images: whether to read the images and captions.

        Raises:
            DataError: a table is damaged or has no column of instructions.
        """
        for file in self.files:
            yield from _edits_of(file, with_images)

    @property
    def has_scores(self) -> bool:
        """Whether each file has a column of scores."""
        return all(_names_of(file).scores for file in self.files)

    def check_images(self) -> None:
        """Checks that images can be scored.

        Raises:
            DataError: a table has no columns of images.
        """
        for file in self.files:
            names = _names_of(file)
            if names.source is None or names.target is None:
                raise DataError(
                    f"'{file.name}' has no columns of images before and after the edit, so there is nothing "
                    "to score. Rename them to source_image and edited_image."
                )


def find_tables(place: Path) -> EditTable:
    """Finds the parquet files of a place: a file, a folder, or the folder of a build.

    Raises:
        DataError: there is none.
    """
    data = place / "data"
    folder = data if (place / "build.json").is_file() and data.is_dir() else place
    files = [place] if place.is_file() else sorted(folder.rglob("*.parquet"))
    if not files:
        raise DataError(
            f"Tables: there is no .parquet file in '{place}'. Give a data set's folder, one of its files, or "
            "the folder of a finished build."
        )
    return EditTable(tuple(files))


@dataclass(frozen=True)
class _Names:
    words: str
    mask: str | None
    data_type: str | None
    source: str | None
    target: str | None
    source_caption: str | None
    target_caption: str | None
    scores: Mapping[str, str]


def _names_of(file: Path) -> _Names:
    with open_table(file) as table:
        check_columns(table, file, ())
        present = table.schema_arrow.names

    def first(names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in present), None)

    words = first(pair_lists.WORDS)
    if words is None:
        raise DataError(
            f"'{file.name}' has no column of instructions; its columns are {', '.join(present)}. Rename one "
            "to edit_prompt."
        )
    source, target = first(pair_lists.BEFORE), first(pair_lists.AFTER)
    # "input" and "output" may hold captions or images.
    before, after = (
        None if name in (source, target) else name
        for name in (first(SOURCE_CAPTIONS), first(TARGET_CAPTIONS))
    )
    scores = {name: first(_SCORE_NAMES.get(name, (name,))) for name in SCORES}
    kept = {name: column for name, column in scores.items() if column is not None}
    kind = "data_type" if "data_type" in present else None
    return _Names(words, first(pair_lists.MASK), kind, source, target, before, after, kept)


def _edits_of(file: Path, with_images: bool) -> Iterator[TableEdit]:
    names = _names_of(file)
    wanted = [names.words, *names.scores.values(), *filter(None, (names.data_type,))]
    if names.data_type is None and names.mask is not None:
        wanted.append(names.mask)
    if with_images:
        others = (names.source, names.target, names.source_caption, names.target_caption)
        wanted += [name for name in others if name is not None]
    with open_table(file) as table:
        check_columns(table, file, wanted)
        number = 0
        for group in range(table.num_row_groups):
            for batch in row_batches(table, file, list(dict.fromkeys(wanted)), _BATCH, group):
                for row in batch:
                    edit = _edit(f"{file.name} row {number}", row, names)
                    number += 1
                    if edit.instruction:
                        yield edit


def _edit(name: str, row: Mapping[str, Any], names: _Names) -> TableEdit:
    def text(column: str | None) -> str:
        value = row.get(column) if column else None
        return value.strip() if isinstance(value, str) else ""

    scores = {score: row[column] for score, column in names.scores.items()}
    return TableEdit(
        name,
        direct_words(row[names.words]),
        _kind(name, row, names),
        {score: float(value) for score, value in scores.items() if isinstance(value, int | float)},
        text(names.source_caption),
        text(names.target_caption),
        row.get(names.source) if names.source else None,
        row.get(names.target) if names.target else None,
    )


def _kind(name: str, row: Mapping[str, Any], names: _Names) -> str:
    """Region edits say so, or have a mask that is not white all over."""
    if names.data_type is not None:
        return REGION if row[names.data_type] == REGION else FREE_FORM
    cell = row[names.mask] if names.mask else None
    if cell is None:
        return FREE_FORM
    try:
        mask = decode_image(BytesIO(image_bytes(cell, name)), name)
    except (DataError, PairError):
        return FREE_FORM
    return FREE_FORM if float(mask.min()) >= _WHITE else REGION
