"""Reading Emu Edit Test (Sheynin et al. 2023): an image, an instruction, and captions of the image before and after; no true result.

Parquet files as they are given away: ``{validation,test}-00000-of-....parquet`` in the folder or its data/, with the columns ``instruction``,
``image``, ``task``, ``split``, ``idx``, ``hash``, ``input_caption`` and ``output_caption``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ...errors import EvaluationError, InstructBrushError
from .item_storage import ItemSet, StoredItem, StoredTurn, left_out, shards, table_rows

PLACEHOLDERS = frozenset({"a train station in city"})
"""Captions that stand where none was written (UltraEdit, supplement C.2)."""

_COLUMNS = ("instruction", "task", "split", "hash", "input_caption", "output_caption")


def read_emu_edit(path: str | Path, split: str = "test", strict: bool = False) -> ItemSet:
    """The rows of a split. Those with a placeholder or equal captions have none here, so metrics with words leave them out; the remarks say how many.

    Args:
        path: the folder of the parquet files, or one of them.
        split: ``test`` or ``validation``, of the files' names and the column ``split``.
        strict: stop at the first row that cannot be used. Otherwise it is left out and told in the remarks, as long as one is left.

    Raises:
        DataError: a column is missing, a damaged file.
        EvaluationError: nothing there, no row that can be used, a row is there twice.
    """
    root = Path(path)
    if not root.exists():
        raise EvaluationError(
            f"Emu Edit Test: '{path}' does not exist. Download the data set's parquet files and give their folder."
        )
    items: dict[str, StoredItem] = {}
    splits: set[str] = set()
    dropped = {"placeholder": 0, "equal": 0}
    refused: list[InstructBrushError] = []

    def refuse(row: Mapping[str, Any], error: InstructBrushError) -> None:
        if row["split"] == split:
            if strict:
                raise error
            refused.append(error)

    for file in shards(root, split):
        for row in table_rows(file, _COLUMNS, ("image",), refused=refuse):
            splits.add(str(row["split"]))
            if row["split"] != split:
                continue
            where = f"Emu Edit Test, {file.name} row {row['image'][0].row}"
            try:
                item, fault = _item(where, row)
            except EvaluationError as error:
                refuse(row, error)
                continue
            if item.name in items:
                raise EvaluationError(
                    f"{where}: hash '{item.name}' is there twice. Give the files of one download only."
                )
            if fault is not None:
                dropped[fault] += 1
            items[item.name] = item
    if refused and not items:
        raise refused[0]
    if not items:
        found = f"its rows are of {', '.join(sorted(splits))}" if splits else "it holds no rows"
        raise EvaluationError(
            f"Emu Edit Test: '{root.name}' has no rows of split '{split}': {found}. Give another --split, or download the files again."
        )
    remarks = [f"{len(items)} rows of split '{split}'.", *left_out(refused, "row")]
    if any(dropped.values()):
        remarks.append(
            f"{dropped['placeholder']} rows have a placeholder or nothing for a caption, {dropped['equal']} the same caption before and after: "
            "CLIP-dir and CLIP-out are measured on the other rows alone."
        )
    return ItemSet(tuple(items.values()), tuple(remarks))


def _item(where: str, row: Mapping[str, Any]) -> tuple[StoredItem, Literal["placeholder", "equal"] | None]:
    """The item of a row, and what is wrong with its captions."""
    name = str(row["hash"])
    if not re.fullmatch(r"\w[\w.=+-]*", name):
        raise EvaluationError(
            f"{where}: hash '{name[:80]}' is no plain name of letters and digits. Download the file again."
        )
    if not isinstance(row["instruction"], str) or not row["instruction"].strip():
        raise EvaluationError(f"{where}: the instruction is empty. Download the file again.")
    before, after = (str(row[column] or "").strip() for column in ("input_caption", "output_caption"))
    fault = _fault(before, after)
    turn = StoredTurn(
        row["instruction"].strip(),
        row["image"][0],
        caption=None if fault else after,
        caption_before=None if fault else before,
    )
    return StoredItem(name, str(row["task"]), (turn,)), fault


def _fault(before: str, after: str) -> Literal["placeholder", "equal"] | None:
    """Why captions say nothing of the edit."""
    first, second = (" ".join(text.lower().split()).rstrip(" .") for text in (before, after))
    if not first or not second or PLACEHOLDERS & {first, second}:
        return "placeholder"
    return "equal" if first == second else None
