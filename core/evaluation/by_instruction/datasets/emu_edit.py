"""Reads Emu Edit Test (Sheynin et al. 2023): images with an instruction and captions before and after.

It has no ground-truth images. The published files are ``{validation,test}-00000-of-....parquet``, in the
folder or its data/, with the columns ``instruction``, ``image``, ``task``, ``split``, ``idx``, ``hash``,
``input_caption`` and ``output_caption``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ....errors import EvaluationError, InstructBrushError
from .item_storage import ItemSet, StoredItem, StoredTurn, left_out_remarks, shards, table_rows

PLACEHOLDERS = frozenset({"a train station in city"})
"""Captions that stand in for missing ones (UltraEdit, supplement C.2)."""

_COLUMNS = ("instruction", "task", "split", "hash", "input_caption", "output_caption")


def read_emu_edit(path: str | Path, split: str = "test", strict: bool = False) -> ItemSet:
    """Reads the list of items of a split.

    Rows with placeholders or equal captions become items without captions, so that metrics with captions
    leave them out. The remarks count these rows.

    Args:
        path: the folder of the .parquet files, or one of them.
        split: ``test`` or ``validation``, as in file names and in the column ``split``.
        strict: raise at the first unusable row. Otherwise unusable rows are left out and listed in the
            remarks.

    Raises:
        DataError: a column is missing, or a file is damaged.
        EvaluationError: there are no files or no usable rows, or a row is duplicated.
    """
    root = Path(path)
    if not root.exists():
        raise EvaluationError(
            f"Emu Edit Test: '{path}' does not exist. "
            "Download the data set's parquet files and give their folder."
        )
    items: dict[str, StoredItem] = {}
    splits: set[str] = set()
    dropped = {"placeholder": 0, "equal": 0}
    unusable: list[InstructBrushError] = []

    def leave_out(row: Mapping[str, Any], error: InstructBrushError) -> None:
        if row["split"] == split:
            if strict:
                raise error
            unusable.append(error)

    for file in shards(root, split):
        for row in table_rows(file, _COLUMNS, ("image",), on_unusable=leave_out):
            splits.add(str(row["split"]))
            if row["split"] != split:
                continue
            where = f"Emu Edit Test, {file.name} row {row['image'][0].row}"
            try:
                item, fault = _item(where, row)
            except EvaluationError as error:
                leave_out(row, error)
                continue
            if item.name in items:
                raise EvaluationError(
                    f"{where}: hash '{item.name}' appears twice. Give the files of one download only."
                )
            if fault is not None:
                dropped[fault] += 1
            items[item.name] = item
    if unusable and not items:
        raise unusable[0]
    if not items:
        present = f"its rows are of {', '.join(sorted(splits))}" if splits else "it holds no rows"
        raise EvaluationError(
            f"Emu Edit Test: '{root.name}' has no rows of split '{split}': {present}. "
            "Give another --split, or download the files again."
        )
    remarks = [f"{len(items)} rows of split '{split}'.", *left_out_remarks(unusable, "row")]
    if any(dropped.values()):
        remarks.append(
            f"{dropped['placeholder']} rows have a placeholder or an empty caption, {dropped['equal']} have "
            "the same caption before and after: CLIP-dir and CLIP-out are measured on the other rows only."
        )
    return ItemSet(tuple(items.values()), tuple(remarks))


def _item(where: str, row: Mapping[str, Any]) -> tuple[StoredItem, Literal["placeholder", "equal"] | None]:
    """Returns the item of a row, and the fault of its captions."""
    name = str(row["hash"])
    if not re.fullmatch(r"\w[\w.=+-]*", name):
        raise EvaluationError(
            f"{where}: hash '{name[:80]}' is not a plain name of letters and digits. Download the file again."
        )
    if not isinstance(row["instruction"], str) or not row["instruction"].strip():
        raise EvaluationError(f"{where}: the instruction is empty. Download the file again.")
    before = str(row["input_caption"] or "").strip()
    after = str(row["output_caption"] or "").strip()
    fault = _caption_fault(before, after)
    turn = StoredTurn(
        row["instruction"].strip(),
        row["image"][0],
        caption=None if fault else after,
        caption_before=None if fault else before,
    )
    return StoredItem(name, str(row["task"]), (turn,)), fault


def _caption_fault(before: str, after: str) -> Literal["placeholder", "equal"] | None:
    """Why the captions do not describe the edit; None if they do."""
    before = _normalized(before)
    after = _normalized(after)
    if not before or not after or PLACEHOLDERS & {before, after}:
        return "placeholder"
    return "equal" if before == after else None


def _normalized(caption: str) -> str:
    return " ".join(caption.lower().split()).rstrip(" .")
