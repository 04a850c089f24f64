"""Reading a benchmark of direct and reasoning instructions, as Table 3 of ReasonPix2Pix measures them: an image, what it should become, and two instructions
for that edit, one that names it and one from which it must be understood.

The paper's test set and its layout are unpublished. Here it is a folder of one of two layouts::

    reason.json              a list of {"before": "1.jpg", "after": "2.jpg", "words": "turn the sunglasses into a face mask",
                             "reasoning": "she prefers a face mask to sunglasses", "caption": "a woman with a face mask"}; images beside it or below
    {split}-....parquet      in the folder or its data/: before, after, words, reasoning and, where there is one, caption

``caption`` says what the image shows after the edit, for CLIP-T; entries may lack it. Every entry gives two items, such as ``0007-direct`` and
``0007-reasoning``, which differ in their instruction alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import EvaluationError, InstructBrushError, InstructionError
from ...storage.names import resolve_inside
from ...storage.parquet import open_table
from .item_storage import (
    ImageFile,
    ItemSet,
    Stored,
    StoredItem,
    StoredTurn,
    check_header,
    left_out,
    read_listing,
    shards,
    table_rows,
)

FILE = "reason.json"
INSTRUCTIONS = {"direct": "words", "reasoning": "reasoning"}
"""Scope of an item -> where its instruction is."""

_IMAGES = ("before", "after")
_NAME = "Reasoning benchmark"

Refuse = Callable[[InstructBrushError], None]
"""Told why an entry cannot be used; raises where that is the end."""


def read_reason(path: str | Path, split: str = "test", strict: bool = False) -> ItemSet:
    """The items of either layout, direct and reasoning in turn; every image's header is checked.

    Args:
        path: the folder, or a parquet file.
        split: which .parquet files.
        strict: stop at the first entry that cannot be used. Otherwise it is left out and told in the remarks, as long as one is left.

    Raises:
        DataError: a column is missing, a damaged file.
        EvaluationError: nothing there, or no entry that can be used: an instruction is missing, an image is missing, outside the folder, or of another size
            than its twin.
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
            f'{_NAME}: \'{path}\' holds neither {FILE} nor .parquet files. Write {FILE}, a list of {{"before": file, "after": file, "words": text, '
            '"reasoning": text}, with "caption": text where there is one.'
        )
    refused: list[InstructBrushError] = []

    def refuse(error: InstructBrushError) -> None:
        if strict:
            raise error
        refused.append(error)

    items = list(_from_folder(root, refuse) if (root / FILE).is_file() else _from_tables(root, split, refuse))
    if refused and not items:
        raise refused[0]
    if not items:
        raise EvaluationError(f"{_NAME}: '{root.name}' holds no items. Get its files again.")
    count = len(items) // len(INSTRUCTIONS)
    remarks = [
        f"{count} images, each with a direct and a reasoning instruction.",
        *left_out(refused, "image"),
    ]
    named = sum(item.turns[0].caption is not None for item in items) // len(INSTRUCTIONS)
    if named < count:
        remarks.append(
            "CLIP-T was not measured: there are no captions."
            if not named
            else f"CLIP-T leaves out {count - named} images without a caption."
        )
    return ItemSet(tuple(items), tuple(remarks))


def _from_folder(root: Path, refuse: Refuse) -> Iterator[StoredItem]:
    entries = read_listing(root / FILE)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise EvaluationError(
            f'\'{FILE}\' must be a list of {{"before": file, "after": file, "words": text, "reasoning": text}}.'
        )
    for number, entry in enumerate(entries):
        where = f"{_NAME}, {FILE} entry {number}"
        try:
            files = [ImageFile(_inside(root, entry.get(name), f"{where}: '{name}'")) for name in _IMAGES]
            found = _items(
                number, where, entry, [(file, check_header(file.open(), file.name)) for file in files]
            )
        except EvaluationError as error:
            refuse(error)
        else:
            yield from found


def _from_tables(root: Path, split: str, refuse: Refuse) -> Iterator[StoredItem]:
    number = 0

    def refuse_row(_row: Mapping[str, Any], error: InstructBrushError) -> None:
        nonlocal number
        number += 1  # items keep their names, whatever is left out before them
        refuse(error)

    for file in shards(root, split):
        with open_table(file) as table:
            captioned = "caption" in table.schema_arrow.names
        for row in table_rows(
            file, (*INSTRUCTIONS.values(), *(["caption"] if captioned else [])), _IMAGES, refused=refuse_row
        ):
            images = [row[name] for name in _IMAGES]
            try:
                found = _items(number, f"{_NAME}, {file.name} row {images[0][0].row}", row, images)
            except EvaluationError as error:
                refuse_row(row, error)
                continue
            yield from found
            number += 1


def _items(
    number: int, where: str, told: Mapping[str, Any], images: Sequence[tuple[Stored, tuple[int, int]]]
) -> list[StoredItem]:
    """The direct and the reasoning item of an entry."""
    (before, size), (after, other) = images
    if size != other:
        raise EvaluationError(
            f"{where}: before is {size[0]} x {size[1]}, after is {other[0]} x {other[1]}. Both must have one size: crop or scale them alike."
        )
    caption = told.get("caption")
    if caption is not None and not isinstance(caption, str):
        raise EvaluationError(
            f"{where}: 'caption' is no text. Say what the image shows after the edit, or leave it out."
        )
    items = []
    for scope, field in INSTRUCTIONS.items():
        words = told.get(field)
        if not isinstance(words, str) or not words.strip():
            raise EvaluationError(
                f"{where}: '{field}' is missing. An item has a direct instruction (words) and one from which the edit must be understood (reasoning)."
            )
        turn = StoredTurn(" ".join(words.split()), before, after, caption=(caption or "").strip() or None)
        items.append(StoredItem(f"{number:04}-{scope}", scope, (turn,)))
    return items


def _inside(root: Path, name: Any, where: str) -> Path:
    """Images are the folder's own: no name may lead elsewhere."""
    if not isinstance(name, str):
        raise EvaluationError(f"{where} is missing. Name the image's file.")
    try:
        return resolve_inside(root, name)
    except InstructionError as error:
        raise EvaluationError(
            f"{where}, '{name[:80]}', is no file of this folder. Put the images beside {FILE} or into folders there."
        ) from error
