"""The tree of InstructPix2Pix's data: a folder for each prompt, with several image pairs.

``seeds.json`` is ``[[folder, [seed, …]], …]``. A folder holds ``prompt.json``, ``{seed}_0.jpg`` and
``{seed}_1.jpg``. Its ``metadata.jsonl`` only holds figures of the sampling.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError, PairError
from ...pairs.layouts import PROMPT, folders_below, natural
from ...pairs.pair_lists import direct_words
from ...storage.files import read_file
from ...storage.json_text import parse_json
from ...storage.names import resolve_inside
from ..engine.stage import Row
from ..errors import Refused
from .rows import (
    BAD_ENTRY,
    BAD_WORDS,
    EDIT_COLUMNS,
    EDITED_IMAGE,
    IMAGE,
    MOST_LIST_BYTES,
    MOST_WORDS_BYTES,
    FileSource,
    Words,
    file_cell,
    hash_of,
    no_rows,
    row_of,
    unique_ids,
)

SEEDS = "seeds.json"

# Keys of prompt.json. The captions that people wrote have "input", those of a language model also "caption".
_CAPTION = ("input", "caption", "original_prompt", "source_caption")
_EDITED_CAPTION = ("output", "edited_prompt", "target_caption")
_INSTRUCTION = ("edit", "instruction", "edit_prompt")
_ENDINGS = (".jpg", ".png", ".jpeg", ".webp")
_SEED = re.compile(r"[\w-]{1,100}")

Entry = tuple[str, str]
"""A folder and a seed. An entry of seeds.json that is no such thing is ("", what it is)."""


class EditTree(FileSource):
    """A tree of InstructPix2Pix's data. Without ``seeds.json``, all folders with ``prompt.json`` are read.

    Raises:
        DataError: ``seeds.json`` cannot be read, or there is no pair.
    """

    layout = "InstructPix2Pix tree"
    reads_folders = False

    def __init__(self, place: Path) -> None:
        super().__init__(place, EDIT_COLUMNS)
        listed = (place / SEEDS).is_file()
        self._entries = tuple(_listed(place / SEEDS) if listed else _found(place))
        if not self._entries:
            raise no_rows(place, f"Fill {SEEDS} with the script prepare_dataset.py of InstructPix2Pix.")
        self._ids = unique_ids(f"{folder}-{seed}" for folder, seed in self._entries)

    @property
    def count(self) -> int:
        """See ``FileSource``."""
        return len(self._entries)

    @property
    def fingerprint(self) -> str:
        """See ``FileSource``."""
        return hash_of("tree", self._entries)

    def row(self, number: int) -> Row:
        """See ``FileSource``."""
        name, seed = self._entries[number]
        if not name:
            raise Refused(BAD_ENTRY, f"{SEEDS} of '{self.place.name}', entry {seed}")
        try:
            folder = resolve_inside(self.place, name, error=PairError)
        except PairError as error:
            raise Refused(BAD_ENTRY, f"{SEEDS} of '{self.place.name}': {error}") from error
        if not _SEED.fullmatch(seed):
            raise Refused(BAD_ENTRY, f"{SEEDS} of '{self.place.name}': {seed[:60]!r} of '{name}' is no seed.")
        cells = {
            **_words(folder / PROMPT, f"{name}/{PROMPT}").cells(),
            IMAGE: file_cell(_image(folder, f"{seed}_0"), self.place),
            EDITED_IMAGE: file_cell(_image(folder, f"{seed}_1"), self.place),
        }
        return row_of(self._ids[number], cells, self.columns)


def is_tree(place: Path) -> bool:
    """Whether a folder is a tree of InstructPix2Pix's data."""
    return (place / SEEDS).is_file() or any((folder / PROMPT).is_file() for folder in folders_below(place))


def _listed(file: Path) -> Iterator[Entry]:
    try:
        content = parse_json(read_file(file, MOST_LIST_BYTES), finite=False)
        if not isinstance(content, list):
            raise ValueError("it is not a list")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{SEEDS} of '{file.parent.name}' must be a list of [folder, [seed, …]] ({error}). Download it "
            "again, or remove it: then all folders are read."
        ) from error
    for number, entry in enumerate(content):
        match entry:
            case [str() as folder, [*seeds]] if folder:
                yield from ((folder, str(seed)) for seed in seeds)
            case _:
                yield "", f"{number} is {str(entry)[:60]}, not [folder, [seed, …]]."


def _found(place: Path) -> Iterator[Entry]:
    for folder in folders_below(place):
        if (folder / PROMPT).is_file():
            names = {path.stem for path in folder.iterdir() if path.suffix.lower() in _ENDINGS}
            seeds = (name[:-2] for name in names if name.endswith("_0"))
            within = folder.relative_to(place).as_posix()
            yield from ((within, seed) for seed in sorted(seeds, key=natural))


def _image(folder: Path, stem: str) -> Path:
    paths = [folder / f"{stem}{ending}" for ending in _ENDINGS]
    return next((path for path in paths if path.is_file()), paths[0])


def _words(file: Path, name: str) -> Words:
    try:
        fields = parse_json(read_file(file, MOST_WORDS_BYTES), finite=False)
        if not isinstance(fields, dict):
            raise ValueError("it is not a table")
    except (OSError, ValueError) as error:
        raise Refused(BAD_WORDS, f"{name} cannot be read ({error}).") from error
    words = Words(*(_text(fields, keys) for keys in (_CAPTION, _INSTRUCTION, _EDITED_CAPTION)))
    if not words.instruction:
        raise Refused(BAD_WORDS, f"{name} has no text 'edit'.")
    return words


def _text(fields: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next(filter(None, (direct_words(fields.get(key)) for key in keys)), "")
