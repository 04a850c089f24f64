"""Folders and lists of images: pairs, ``imagefolder`` of the datasets library, and plain images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import PairError
from ...pairs.layouts import LISTS, folders_below, natural, pairs_below
from ...pairs.pair_lists import (
    AFTER,
    BEFORE,
    ListedPair,
    entry_fields,
    file_inside,
    file_named,
    first_of,
    list_entries,
    read_list,
    text_of,
)
from ...storage.files import read_file
from ...storage.image_files import IMAGES
from ...storage.json_text import decoded_text
from ..engine.stage import Row
from ..errors import Refused
from .rows import (
    BAD_ENTRY,
    BAD_WORDS,
    CAPTION,
    EDIT_COLUMNS,
    EDITED_IMAGE,
    IMAGE,
    MOST_WORDS_BYTES,
    FileSource,
    Words,
    file_cell,
    hash_of,
    no_rows,
    row_of,
    unique_ids,
)
from .tables import CAPTIONS


class PairFolder(FileSource):
    """The pairs of a folder or list, in the layouts of core/pairs/layouts.py. What is no pair comes last.

    Raises:
        DataError: there is no pair.
    """

    layout = "folder of pairs"

    def __init__(self, place: Path, pairs: Sequence[ListedPair], faults: Sequence[str]) -> None:
        super().__init__(place, EDIT_COLUMNS)
        self._root = place if place.is_dir() else place.parent
        self._pairs = tuple(pairs)
        self._faults = tuple(faults)
        if not pairs:
            raise no_rows(place, self._faults[0] if faults else "Add pairs.")
        names = [pair.name for pair in pairs] + [f"fault-{number}" for number in range(len(faults))]
        self._ids = unique_ids(names)

    @property
    def count(self) -> int:
        """See ``FileSource``."""
        return len(self._ids)

    @property
    def fingerprint(self) -> str:
        """See ``FileSource``."""
        files = [
            (pair.name, *(each.relative_to(self._root).as_posix() for each in (pair.before, pair.after)))
            for pair in self._pairs
        ]
        words = [(pair.words, pair.captions) for pair in self._pairs]
        return hash_of("pairs", files, words, self._faults)

    def row(self, number: int) -> Row:
        """See ``FileSource``."""
        if number >= len(self._pairs):
            raise Refused(BAD_ENTRY, self._faults[number - len(self._pairs)])
        pair = self._pairs[number]
        cells = {
            **Words(pair.captions[0], pair.words, pair.captions[1]).cells(),
            IMAGE: file_cell(self._root / pair.before.relative_to(self._root), self._root),
            EDITED_IMAGE: file_cell(self._root / pair.after.relative_to(self._root), self._root),
        }
        return row_of(self._ids[number], cells, self.columns)


@dataclass(frozen=True)
class _Listed:
    """An entry of a list of images, not checked yet."""

    file: Path
    number: int
    entry: Any

    @property
    def where(self) -> str:
        return f"{self.file.name} of '{self.file.parent.name}', entry {self.number}"

    def read(self) -> tuple[Path, str]:
        """Returns the image and its caption.

        Raises:
            PairError: the entry is malformed.
        """
        fields = entry_fields(self.entry, self.where)
        name = file_named(fields, BEFORE, self.where)
        if not name:
            raise PairError(f"{self.where} lacks 'file_name', the name of an image inside the folder.")
        return file_inside(self.file, name), text_of(fields, CAPTIONS)


class ImageList(FileSource):
    """The images of ``imagefolder`` lists, with captions.

    Raises:
        PairError: a list cannot be read.
        DataError: there is no image.
    """

    layout = "image folder"

    def __init__(self, place: Path, lists: Sequence[Path]) -> None:
        super().__init__(place, (IMAGE, CAPTION))
        self._root = place if place.is_dir() else place.parent
        self._entries = tuple(
            _Listed(file, number, entry) for file in lists for number, entry in enumerate(list_entries(file))
        )
        if not self._entries:
            raise no_rows(place, 'Write lines such as {"file_name": "1.jpg", "text": "a cat"} into its list.')
        self._ids = unique_ids(self._name(entry) for entry in self._entries)

    @property
    def count(self) -> int:
        """See ``FileSource``."""
        return len(self._entries)

    @property
    def fingerprint(self) -> str:
        """See ``FileSource``."""
        return hash_of("images", [(self._name(entry), entry.entry) for entry in self._entries])

    def row(self, number: int) -> Row:
        """See ``FileSource``."""
        try:
            path, caption = self._entries[number].read()
        except PairError as error:
            raise Refused(BAD_ENTRY, str(error)) from error
        cells = {IMAGE: file_cell(path, self._root), CAPTION: caption or None}
        return row_of(self._ids[number], cells, self.columns)

    def _name(self, listed: _Listed) -> str:
        folder = listed.file.parent.relative_to(self._root).as_posix()
        return f"{listed.number}" if folder == "." else f"{folder}-{listed.number}"


class PlainFolder(FileSource):
    """All images of a folder and of the folders below it. ``cat.txt`` holds the caption of ``cat.jpg``.

    Raises:
        DataError: there is no image.
    """

    layout = "folder of images"

    def __init__(self, place: Path) -> None:
        super().__init__(place, (IMAGE, CAPTION))
        self._files = tuple(path for folder in (place, *folders_below(place)) for path in _images(folder))
        if not self._files:
            raise no_rows(
                place,
                "Give a folder of images, with captions in .txt files beside them; a data set with "
                "metadata.jsonl, seeds.json or .parquet files; or an annotation file.",
            )
        self._names = [path.relative_to(place).as_posix() for path in self._files]
        self._ids = unique_ids(name.rpartition(".")[0] for name in self._names)

    @property
    def count(self) -> int:
        """See ``FileSource``."""
        return len(self._files)

    @property
    def fingerprint(self) -> str:
        """See ``FileSource``."""
        return hash_of("folder", self._names)

    def row(self, number: int) -> Row:
        """See ``FileSource``."""
        path = self._files[number]
        cells = {IMAGE: file_cell(path, self.place), CAPTION: _caption(path.with_suffix(".txt")) or None}
        return row_of(self._ids[number], cells, self.columns)


def lists_in(place: Path) -> list[Path]:
    """The lists of a folder, or else of the folders below it; or the file itself if it may be one."""
    if place.is_file():
        return [place] if place.suffix in (".json", ".jsonl", ".csv") else []
    for folders in ((place,), folders_below(place)):
        first = (
            next((folder / name for name in LISTS if (folder / name).is_file()), None) for folder in folders
        )
        lists = [file for file in first if file is not None]
        if lists:
            return lists
    return []


def listed(place: Path, lists: Sequence[Path]) -> PairFolder | ImageList:
    """The source of lists, which name pairs or single images.

    Raises:
        PairError: a list cannot be read.
        DataError: there is no row.
    """
    if not any(_names_pairs(file) for file in lists):
        return ImageList(place, lists)
    faults: list[str] = []

    def refuse(error: PairError) -> None:
        faults.append(str(error))

    pairs = read_list(place, refuse) if place.is_file() else pairs_below(place, refuse)
    return PairFolder(place, pairs, faults)


def images_or_pairs(place: Path) -> PairFolder | PlainFolder:
    """The source of a folder without lists: pairs, if most of its images are, and else images.

    Raises:
        DataError: there is no image.
    """
    faults: list[str] = []
    try:
        pairs = pairs_below(place, lambda error: faults.append(str(error)))
    except PairError:  # two images of one name, which are no pairs
        return PlainFolder(place)
    images = PlainFolder(place)
    return PairFolder(place, pairs, faults) if 4 * len(pairs) >= images.count else images


def _names_pairs(file: Path) -> bool:
    for entry in list_entries(file):
        try:
            return first_of(AFTER, entry_fields(entry, file.name)) is not None
        except PairError:
            continue
    return False


def _images(folder: Path) -> list[Path]:
    names = (entry.name for entry in os.scandir(folder) if entry.is_file())
    images = (
        name for name in names if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGES
    )
    return [folder / name for name in sorted(images, key=natural)]


def _caption(file: Path) -> str:
    try:
        return decoded_text(read_file(file, MOST_WORDS_BYTES)).strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise Refused(BAD_WORDS, f"{file.name} cannot be read ({error}). Save it as UTF-8.") from error
