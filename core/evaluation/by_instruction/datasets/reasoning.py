"""Reads benchmarks of direct and reasoning instructions, as in Table 3 of ReasonPix2Pix.

Each entry has an image, its ground truth, and two instructions: a direct one that names the edit, and a
reasoning one that only implies it. The paper's test set is unpublished. Two layouts are read::

    reason.json              images beside it or in folders below, and entries
                             [{"before": "1.jpg", "after": "2.jpg",
                               "words": "turn the sunglasses into a face mask",
                               "reasoning": "she prefers a face mask to sunglasses",
                               "caption": "a woman with a face mask"}, ...]
    {split}-....parquet      in the folder or its data/, with the columns
                             before, after, words, reasoning and optionally caption

``caption`` describes the image after the edit, for CLIP-T; it is optional. Every entry gives two items, such
as ``0007-direct`` and ``0007-reasoning``, which differ only in their instruction.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ....errors import EvaluationError, InstructBrushError, InstructionError
from ....storage.names import resolve_inside
from ....storage.parquet import open_table
from .item_storage import (
    ImageFile,
    ItemSet,
    StoredImage,
    StoredItem,
    StoredTurn,
    check_header,
    left_out_remarks,
    read_listing,
    shards,
    table_rows,
)

FILE = "reason.json"
INSTRUCTIONS = {"direct": "words", "reasoning": "reasoning"}
"""Scope of an item -> field of its instruction."""

_IMAGES = ("before", "after")
_NAME = "Reasoning benchmark"

OnUnusableEntry = Callable[[InstructBrushError], None]
"""Called with the reason why an entry is unusable. May raise to stop."""


def read_reason(path: str | Path, split: str = "test", strict: bool = False) -> ItemSet:
    """Reads the list of items, direct and reasoning in turn. Checks every image's header.

    Args:
        path: the folder, or a .parquet file.
        split: which .parquet files to read.
        strict: raise at the first unusable entry. Otherwise unusable entries are left out and listed in the
            remarks.

    Raises:
        DataError: a column is missing, or a file is damaged.
        EvaluationError: there are no files or no usable entries. An entry is unusable if an instruction or
            image is missing, an image is outside the folder, or its images differ in size.
    """
    root = Path(path)
    if not root.exists():
        raise EvaluationError(
            f"{_NAME}: '{path}' does not exist. Give a folder with {FILE} or .parquet files."
        )
    if root.is_dir() and not any(
        found for pattern in (FILE, "*.parquet", "data/*.parquet") for found in root.glob(pattern)
    ):
        raise EvaluationError(
            f"{_NAME}: '{path}' holds neither {FILE} nor .parquet files. Write {FILE}, a list of "
            '{"before": file, "after": file, "words": text, "reasoning": text}, '
            'optionally with "caption": text.'
        )
    unusable: list[InstructBrushError] = []

    def leave_out(error: InstructBrushError) -> None:
        if strict:
            raise error
        unusable.append(error)

    if (root / FILE).is_file():
        items = list(_from_folder(root, leave_out))
    else:
        items = list(_from_tables(root, split, leave_out))
    if unusable and not items:
        raise unusable[0]
    if not items:
        raise EvaluationError(f"{_NAME}: '{root.name}' holds no items. Download its files again.")
    count = len(items) // len(INSTRUCTIONS)
    remarks = [
        f"{count} images, each with a direct and a reasoning instruction.",
        *left_out_remarks(unusable, "image"),
    ]
    captioned = sum(item.turns[0].caption is not None for item in items) // len(INSTRUCTIONS)
    if not captioned:
        remarks.append("CLIP-T was not measured: there are no captions.")
    elif captioned < count:
        remarks.append(f"CLIP-T leaves out {count - captioned} images without a caption.")
    return ItemSet(tuple(items), tuple(remarks))


def _from_folder(root: Path, leave_out: OnUnusableEntry) -> Iterator[StoredItem]:
    entries = read_listing(root / FILE)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise EvaluationError(
            f"'{FILE}' must be a list of "
            '{"before": file, "after": file, "words": text, "reasoning": text}.'
        )
    for number, entry in enumerate(entries):
        where = f"{_NAME}, {FILE} entry {number}"
        try:
            files = [ImageFile(_inside(root, entry.get(name), f"{where}: '{name}'")) for name in _IMAGES]
            images = [(file, check_header(file.open(), file.name)) for file in files]
            items = _items_of_entry(number, where, entry, images)
        except EvaluationError as error:
            leave_out(error)
        else:
            yield from items


def _from_tables(root: Path, split: str, leave_out: OnUnusableEntry) -> Iterator[StoredItem]:
    number = 0

    def leave_out_row(_row: Mapping[str, Any], error: InstructBrushError) -> None:
        nonlocal number
        number += 1  # unusable rows count, so that the names of later items do not change
        leave_out(error)

    for file in shards(root, split):
        with open_table(file) as table:
            captioned = "caption" in table.schema_arrow.names
        texts = [*INSTRUCTIONS.values(), *(["caption"] if captioned else [])]
        for row in table_rows(file, texts, _IMAGES, on_unusable=leave_out_row):
            images = [row[name] for name in _IMAGES]
            try:
                items = _items_of_entry(number, f"{_NAME}, {file.name} row {images[0][0].row}", row, images)
            except EvaluationError as error:
                leave_out_row(row, error)
                continue
            yield from items
            number += 1


def _items_of_entry(
    number: int, where: str, entry: Mapping[str, Any], images: Sequence[tuple[StoredImage, tuple[int, int]]]
) -> list[StoredItem]:
    """Returns the direct and the reasoning item of an entry."""
    (before, before_size), (after, after_size) = images
    if before_size != after_size:
        raise EvaluationError(
            f"{where}: before is {before_size[0]} x {before_size[1]}, after is {after_size[0]} x "
            f"{after_size[1]}. Both must have one size: crop or scale them alike."
        )
    caption = entry.get("caption")
    if caption is not None and not isinstance(caption, str):
        raise EvaluationError(
            f"{where}: 'caption' is not a text. Describe the image after the edit, or leave it out."
        )
    items = []
    for scope, field in INSTRUCTIONS.items():
        words = entry.get(field)
        if not isinstance(words, str) or not words.strip():
            raise EvaluationError(
                f"{where}: '{field}' is missing. An item has a direct instruction (words) and one that only "
                "implies the edit (reasoning)."
            )
        turn = StoredTurn(" ".join(words.split()), before, after, caption=(caption or "").strip() or None)
        items.append(StoredItem(f"{number:04}-{scope}", scope, (turn,)))
    return items


def _inside(root: Path, name: Any, where: str) -> Path:
    """Returns the path of an image. Refuses names that lead out of the folder."""
    if not isinstance(name, str):
        raise EvaluationError(f"{where} is missing. Name the image's file.")
    try:
        return resolve_inside(root, name)
    except InstructionError as error:
        raise EvaluationError(
            f"{where}, '{name[:80]}', is not a file in this folder. "
            f"Put the images beside {FILE} or into folders there."
        ) from error
