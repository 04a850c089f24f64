"""Reads MagicBrush (Zhang et al. 2023): photographs with one to three turns of instruction, mask and result.

Reads both published layouts::

    {split}-00000-of-00004-....parquet (train, dev), in the folder or its data/, with the columns
        img_id, turn_index, source_img, mask_img, instruction, target_img
    images/{img_id}/{img_id}-{input,output1,mask1,output2,...}.png (test, dev), with edit_sessions.json or
        edit_turns.json

CLIP-T needs captions of the results: ``local_descriptions.json`` of the second layout, or a file of the same
form, ``{img_id: {"{img_id}-output1.png": "..."}}``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....errors import EvaluationError, InstructBrushError
from ....storage.image_sizes import same_ratio
from .item_storage import (
    ImageFile,
    ItemSet,
    StoredImage,
    StoredItem,
    StoredTurn,
    check_header,
    read_listing,
    shards,
    table_rows,
)

Captions = Mapping[str, Mapping[str, str]]
"""img_id -> file name of a ground-truth image -> its caption."""

_CAPTION_FILES = ("local_descriptions.json", "local_captions.json")


def read_magicbrush(
    path: str | Path, split: str = "dev", captions: str | Path | None = None, strict: bool = False
) -> ItemSet:
    """Reads the list of sessions. Checks that turns are complete and that images exist and fit.

    Args:
        path: a folder of either layout, its parent folder (with the split as the folder's name), or a
            .parquet file.
        split: which .parquet files to read.
        captions: file of captions for CLIP-T. None uses the local_descriptions.json beside
            edit_sessions.json, if there is one.
        strict: raise at the first session with an unusable turn. Otherwise unusable sessions are left out
            and listed in the remarks.

    Raises:
        DataError: a column is missing, or a file is damaged.
        EvaluationError: there are no files or no usable sessions, or a turn is missing or duplicated.
    """
    root = Path(path)
    if not root.exists():
        raise EvaluationError(
            f"MagicBrush: '{path}' does not exist. "
            "Unpack the test archive, or download the parquet files, and give their folder."
        )
    home = next((folder for folder in (root, root / split) if (folder / "images").is_dir()), None)
    caption_file = Path(captions) if captions else None
    if home and not captions:
        caption_file = next((home / name for name in _CAPTION_FILES if (home / name).is_file()), None)
    reader = _SessionReader(_read_captions(caption_file) if caption_file else {}, strict)
    items = reader.from_folder(home) if home else reader.from_tables(root, split)
    turns = [turn for item in items for turn in item.turns]
    captioned = sum(turn.caption is not None for turn in turns)
    remarks = [f"{len(items)} sessions with {len(turns)} turns.", *reader.remarks()]
    if not captioned:
        remarks.append("CLIP-T was not measured: there are no local descriptions (--captions).")
    elif captioned < len(turns):
        remarks.append(f"CLIP-T leaves out {len(turns) - captioned} turns without a local description.")
    split = _split_of(home or root, split)
    if split in ("train", "dev"):
        remarks.append(f"The published figures are of the test split; these are of {split}.")
    return ItemSet(tuple(items), tuple(remarks))


class _SessionReader:
    """Reads sessions and collects remarks.

    Args:
        captions: captions for CLIP-T.
        strict: raise at the first unusable session.
    """

    def __init__(self, captions: Captions, strict: bool) -> None:
        self._captions = captions
        self._strict = strict
        self._unusable: dict[str, InstructBrushError] = {}
        self._scaled_masks = 0

    def remarks(self) -> list[str]:
        """Lists sessions that were left out, and counts scaled masks."""
        remarks = [f"Session {name} is left out: {error}" for name, error in self._unusable.items()]
        if remarks:
            remarks.append(f"Sessions left out: {len(remarks)}.")
        if self._scaled_masks:
            remarks.append(f"{self._scaled_masks} masks are scaled to their images, which have another size.")
        return remarks

    def from_folder(self, home: Path) -> list[StoredItem]:
        """Reads the layout of image files."""
        items = []
        for name, entries in _read_sessions(home).items():
            try:
                items.append(self._session_of_files(home, name, entries))
            except EvaluationError as error:
                self._leave_out(name, error)
        if not items:
            raise next(
                iter(self._unusable.values()),
                EvaluationError(f"MagicBrush: '{home}' lists no sessions. Unpack the benchmark again."),
            )
        return items

    def from_tables(self, root: Path, split: str) -> list[StoredItem]:
        """Reads the layout of .parquet files."""
        sessions: dict[str, dict[int, StoredTurn]] = {}
        for file in shards(root, split):
            rows = table_rows(
                file,
                ("img_id", "turn_index", "instruction"),
                ("source_img", "target_img"),
                ("mask_img",),
                lambda row, error: self._leave_out(str(row["img_id"]), error),
            )
            for row in rows:
                where = (
                    f"MagicBrush, {file.name} row {row['source_img'][0].row} "
                    f"(session {row['img_id']}, turn {row['turn_index']})"
                )
                session = sessions.setdefault(str(row["img_id"]), {})
                if row["turn_index"] in session:
                    raise EvaluationError(f"{where} appears twice. Give the files of one download only.")
                try:
                    session[row["turn_index"]] = self._turn_of_row(where, row)
                except EvaluationError as error:
                    self._leave_out(str(row["img_id"]), error)
        if not sessions and not self._unusable:
            raise EvaluationError(f"MagicBrush: '{root}' holds no rows. Download the files again.")
        usable = {name: session for name, session in sessions.items() if name not in self._unusable}
        for name, session in usable.items():
            gap = next((number for number in range(1, len(session) + 1) if number not in session), None)
            if gap is not None:
                present = ", ".join(map(str, sorted(session)))
                raise EvaluationError(
                    f"MagicBrush, session {name}: turn {gap} is missing (there are {present}). "
                    "Give all files of the split."
                )
        if not usable:
            raise next(iter(self._unusable.values()))
        return [
            _item(name, [session[number] for number in sorted(session)]) for name, session in usable.items()
        ]

    def _session_of_files(self, home: Path, name: str, entries: list[Any]) -> StoredItem:
        folder = home / "images" / _check_name(name, "img_id")
        turns = []
        last = f"{name}-input.png"
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
                    f"{where} starts from '{fields['input']}'; it must start from '{last}': "
                    "turns are in the wrong order. Unpack the benchmark again."
                )
            last = str(fields["output"])
            files = [
                ImageFile(folder / _check_name(str(fields[field]), field))
                for field in ("input", "output", "mask")
            ]
            sizes = [check_header(file.open(), file.name) for file in files]
            self._check_mask(where, sizes[2], sizes[0])
            caption = self._captions.get(name, {}).get(last)
            turns.append(StoredTurn(str(fields["instruction"]).strip(), *files, caption=caption))
        if not turns:
            raise EvaluationError(f"MagicBrush, session {name}: it has no turns. Unpack the benchmark again.")
        return _item(name, turns)

    def _turn_of_row(self, where: str, row: Mapping[str, Any]) -> StoredTurn:
        source, size = row["source_img"]
        target, _ = row["target_img"]
        name = _check_name(str(row["img_id"]), "img_id")
        if type(row["turn_index"]) is not int or row["turn_index"] < 1:
            raise EvaluationError(f"{where}: turns are counted from 1. Download the file again.")
        if not isinstance(row["instruction"], str) or not row["instruction"].strip():
            raise EvaluationError(f"{where}: the instruction is empty. Download the file again.")
        mask: StoredImage | None = None
        if row["mask_img"] is not None:
            mask, mask_size = row["mask_img"]
            self._check_mask(where, mask_size, size)
        caption = self._captions.get(name, {}).get(f"{name}-output{row['turn_index']}.png")
        return StoredTurn(row["instruction"].strip(), source, target, mask, caption=caption)

    def _check_mask(self, where: str, mask: tuple[int, int], source: tuple[int, int]) -> None:
        if not same_ratio(mask, source):
            raise EvaluationError(
                f"{where}: the mask is {mask[0]} x {mask[1]}, its image {source[0]} x {source[1]}, "
                "another aspect ratio. Unpack or download it again."
            )
        self._scaled_masks += mask != source

    def _leave_out(self, session: str, error: InstructBrushError) -> None:
        if self._strict:
            raise error
        self._unusable.setdefault(session, error)


def _split_of(place: Path, split: str) -> str:
    """The split that was read. ``split`` only chooses among the .parquet files of a folder."""
    if place.is_file():
        return re.split(r"[-.]", place.name)[0]
    return place.resolve().name if (place / "images").is_dir() else split


def _read_sessions(home: Path) -> dict[str, list[Any]]:
    """Returns img_id -> turns in order."""
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
            f"MagicBrush: there is neither edit_sessions.json nor edit_turns.json in '{home}'. "
            "Give the folder that holds them beside images/."
        )
    turns = read_listing(path)
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("input"), str) for turn in turns
    ):
        raise EvaluationError(
            f"'{path.name}' must be a list of turns, each with input, mask, output and instruction. "
            "Unpack the benchmark again."
        )
    turns_of: dict[str, list[Any]] = {}
    for turn in turns:
        turns_of.setdefault(turn["input"].split("-")[0], []).append(turn)
    return turns_of


def _item(name: str, turns: list[StoredTurn]) -> StoredItem:
    return StoredItem(name, f"{len(turns)} turn{'s' * (len(turns) > 1)}", tuple(turns))


def _read_captions(path: Path) -> Captions:
    if not path.is_file():
        raise EvaluationError(f"Captions '{path}' do not exist. Give MagicBrush's local_descriptions.json.")
    captions = read_listing(path)
    valid = isinstance(captions, dict) and all(
        isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
        for texts in captions.values()
    )
    if not valid:
        raise EvaluationError(
            f'\'{path.name}\' must be {{img_id: {{"img_id-output1.png": "what it shows"}}}}, '
            "as local_descriptions.json is."
        )
    return captions


def _check_name(name: str, field: str) -> str:
    """Refuses names that could lead out of the folder, because they become parts of paths."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise EvaluationError(
            f"MagicBrush: {field} '{name[:80]}' is not a plain name of letters, digits, '.', '-' and '_'. "
            "Unpack or download the benchmark again."
        )
    return name
