"""Reading MagicBrush (Zhang et al. 2023): sessions of one to three turns on a photograph, each with instruction, mask and true result.

Two layouts, as the authors give them away::

    {split}-00000-of-00004-....parquet      in the folder or its data/: img_id, turn_index, source_img, mask_img, instruction, target_img (train, dev)
    images/{img_id}/{img_id}-{input,output1,mask1,output2,...}.png with edit_sessions.json or edit_turns.json (the test split, and dev)

CLIP-T needs words for the true results: ``local_descriptions.json`` of the second layout, or any file of its form, ``{img_id: {"{img_id}-output1.png":
"..."}}``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import EvaluationError, InstructBrushError
from ...storage.image_sizes import same_ratio
from .item_storage import (
    ImageFile,
    ItemSet,
    Stored,
    StoredItem,
    StoredTurn,
    check_header,
    read_listing,
    shards,
    table_rows,
)

Captions = Mapping[str, Mapping[str, str]]
"""img_id -> file name of a true result -> what it shows."""

_LOCAL = ("local_descriptions.json", "local_captions.json")


def read_magicbrush(
    path: str | Path, split: str = "dev", captions: str | Path | None = None, strict: bool = False
) -> ItemSet:
    """MagicBrush's sessions, checked for complete turns and for images that are missing or do not fit.

    Args:
        path: the folder of either layout, one that holds it under the split's name, or a parquet file.
        split: which part of parquet files.
        captions: words for CLIP-T; None takes local_descriptions.json where it lies beside edit_sessions.json.
        strict: stop at the first session with a turn that cannot be used. Otherwise it is left out and told in the remarks, as long as one is left.

    Raises:
        DataError: a column is missing, or a file is damaged.
        EvaluationError: nothing there, no session that can be used, a turn is missing or there twice.
    """
    root = Path(path)
    if not root.exists():
        raise EvaluationError(
            f"MagicBrush: '{path}' does not exist. Unpack the test archive, or download the parquet files, and give their folder."
        )
    home = next((folder for folder in (root, root / split) if (folder / "images").is_dir()), None)
    beside = next((home / name for name in _LOCAL if (home / name).is_file()), None) if home else None
    chosen = Path(captions) if captions else beside
    words = _captions(chosen) if chosen else {}
    reading = _Reading(words, strict)
    items = reading.from_folder(home) if home else reading.from_tables(root, split)
    turns = [turn for item in items for turn in item.turns]
    named = sum(turn.caption is not None for turn in turns)
    remarks = [f"{len(items)} sessions with {len(turns)} turns.", *reading.remarks()]
    if not named:
        remarks.append("CLIP-T was not measured: there are no local descriptions (--captions).")
    elif named < len(turns):
        remarks.append(f"CLIP-T leaves out {len(turns) - named} turns without a local description.")
    return ItemSet(tuple(items), tuple(remarks))


class _Reading:
    """One reading of the benchmark, and what it has met.

    Args:
        captions: words for CLIP-T.
        strict: raise at the first session that cannot be used.
    """

    def __init__(self, captions: Captions, strict: bool) -> None:
        self._captions, self._strict = captions, strict
        self._refused: dict[str, InstructBrushError] = {}
        self._scaled = 0

    def remarks(self) -> list[str]:
        """What was left out, and what is done to masks."""
        told = [f"Session {name} is left out: {error}" for name, error in self._refused.items()]
        if told:
            told.append(f"Sessions left out: {len(told)}.")
        if self._scaled:
            told.append(f"{self._scaled} masks are scaled to their images, which have another size.")
        return told

    def from_folder(self, home: Path) -> list[StoredItem]:
        """The sessions of the second layout."""
        items = []
        for name, entries in _sessions(home).items():
            try:
                items.append(self._session(home, name, entries))
            except EvaluationError as error:
                self._refuse(name, error)
        if not items:
            raise next(
                iter(self._refused.values()),
                EvaluationError(f"MagicBrush: '{home}' lists no sessions. Unpack the benchmark again."),
            )
        return items

    def from_tables(self, root: Path, split: str) -> list[StoredItem]:
        """The sessions of the first layout."""
        sessions: dict[str, dict[int, StoredTurn]] = {}
        for file in shards(root, split):
            rows = table_rows(
                file,
                ("img_id", "turn_index", "instruction"),
                ("source_img", "target_img"),
                ("mask_img",),
                self._refuse_row,
            )
            for row in rows:
                where = f"MagicBrush, {file.name} row {row['source_img'][0].row} (session {row['img_id']}, turn {row['turn_index']})"
                session = sessions.setdefault(str(row["img_id"]), {})
                if row["turn_index"] in session:
                    raise EvaluationError(f"{where} is there twice. Give the files of one download only.")
                try:
                    session[row["turn_index"]] = self._turn(where, row)
                except EvaluationError as error:
                    self._refuse(str(row["img_id"]), error)
        if not sessions and not self._refused:
            raise EvaluationError(f"MagicBrush: '{root}' holds no rows. Download the files again.")
        sound = {name: session for name, session in sessions.items() if name not in self._refused}
        for name, session in sound.items():
            gap = next((number for number in range(1, len(session) + 1) if number not in session), None)
            if gap is not None:
                there = ", ".join(map(str, sorted(session)))
                raise EvaluationError(
                    f"MagicBrush, session {name}: turn {gap} is missing (there are {there}). Give all files of the split."
                )
        if not sound:
            raise next(iter(self._refused.values()))
        return [
            _item(name, [session[number] for number in sorted(session)]) for name, session in sound.items()
        ]

    def _session(self, home: Path, name: str, entries: list[Any]) -> StoredItem:
        folder, turns, last = home / "images" / _safe(name, "img_id"), [], f"{name}-input.png"
        for number, entry in enumerate(entries, start=1):
            where = f"MagicBrush, session {name}, turn {number}"
            fields = {
                field: entry.get(field) if isinstance(entry, dict) else None
                for field in ("input", "output", "mask", "instruction")
            }
            missing = next(
                (field for field, value in fields.items() if not isinstance(value, str) or not value.strip()),
                None,
            )
            if missing is not None:
                raise EvaluationError(f"{where}: '{missing}' is missing. Unpack the benchmark again.")
            if fields["input"] != last:
                raise EvaluationError(
                    f"{where} begins from '{fields['input']}', it must begin from '{last}': turns are in the wrong order. Unpack the benchmark again."
                )
            last = str(fields["output"])
            files = [
                ImageFile(folder / _safe(str(fields[field]), field)) for field in ("input", "output", "mask")
            ]
            sizes = [check_header(file.open(), file.name) for file in files]
            self._check_mask(where, sizes[2], sizes[0])
            turns.append(
                StoredTurn(
                    str(fields["instruction"]).strip(), *files, caption=self._captions.get(name, {}).get(last)
                )
            )
        if not turns:
            raise EvaluationError(f"MagicBrush, session {name}: it has no turns. Unpack the benchmark again.")
        return _item(name, turns)

    def _turn(self, where: str, row: Mapping[str, Any]) -> StoredTurn:
        (source, size), (target, _) = row["source_img"], row["target_img"]
        name = _safe(str(row["img_id"]), "img_id")
        if type(row["turn_index"]) is not int or row["turn_index"] < 1:
            raise EvaluationError(f"{where}: turns are counted from 1. Download the file again.")
        if not isinstance(row["instruction"], str) or not row["instruction"].strip():
            raise EvaluationError(f"{where}: the instruction is empty. Download the file again.")
        mask: Stored | None = None
        if row["mask_img"] is not None:
            mask, mask_size = row["mask_img"]
            self._check_mask(where, mask_size, size)
        caption = self._captions.get(name, {}).get(f"{name}-output{row['turn_index']}.png")
        return StoredTurn(row["instruction"].strip(), source, target, mask, caption=caption)

    def _check_mask(self, where: str, mask: tuple[int, int], source: tuple[int, int]) -> None:
        if not same_ratio(mask, source):
            raise EvaluationError(
                f"{where}: the mask is {mask[0]} x {mask[1]}, its image {source[0]} x {source[1]}, another aspect ratio. Unpack or download it again."
            )
        self._scaled += mask != source

    def _refuse_row(self, row: Mapping[str, Any], error: InstructBrushError) -> None:
        self._refuse(str(row["img_id"]), error)

    def _refuse(self, session: str, error: InstructBrushError) -> None:
        if self._strict:
            raise error
        self._refused.setdefault(session, error)


def _sessions(home: Path) -> dict[str, list[Any]]:
    """img_id -> its turns in order."""
    path = home / "edit_sessions.json"
    if path.is_file():
        sessions = read_listing(path)
        if not isinstance(sessions, dict) or not all(isinstance(turns, list) for turns in sessions.values()):
            raise EvaluationError(
                f"'{path.name}' must be a table from img_id to a list of turns. Unpack the benchmark again."
            )
        return {str(name): turns for name, turns in sessions.items()}
    path = home / "edit_turns.json"
    if not path.is_file():
        raise EvaluationError(
            f"MagicBrush: there is neither edit_sessions.json nor edit_turns.json in '{home}'. Give the folder that holds them beside images/."
        )
    turns = read_listing(path)
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("input"), str) for turn in turns
    ):
        raise EvaluationError(
            f"'{path.name}' must be a list of turns, each with input, mask, output and instruction. Unpack the benchmark again."
        )
    found: dict[str, list[Any]] = {}
    for turn in turns:
        found.setdefault(turn["input"].split("-")[0], []).append(turn)
    return found


def _item(name: str, turns: list[StoredTurn]) -> StoredItem:
    return StoredItem(name, f"{len(turns)} turn{'s' * (len(turns) > 1)}", tuple(turns))


def _captions(path: Path) -> Captions:
    if not path.is_file():
        raise EvaluationError(f"Captions '{path}' do not exist. Give MagicBrush's local_descriptions.json.")
    found = read_listing(path)
    sound = isinstance(found, dict) and all(
        isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
        for texts in found.values()
    )
    if not sound:
        raise EvaluationError(
            f'\'{path.name}\' must be {{img_id: {{"img_id-output1.png": "what it shows"}}}}, as local_descriptions.json is.'
        )
    return found


def _safe(name: str, field: str) -> str:
    """Names become folders and files here: none may lead elsewhere."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise EvaluationError(
            f"MagicBrush: {field} '{name[:80]}' is no plain name of letters, digits, '.', '-' and '_'. Unpack or download the benchmark again."
        )
    return name
