"""Annotations in COCO's JSON: COCO's captions, and objects with categories as V3Det has them.

Files of gigabytes are read as a stream. Only names, captions and categories are kept.
"""

import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError, PairError
from ...storage.names import resolve_inside
from ..engine.stage import Row
from ..errors import Refused
from .rows import (
    BAD_ENTRY,
    CAPTION,
    CATEGORIES,
    IMAGE,
    FileSource,
    file_cell,
    hash_of,
    no_rows,
    row_of,
    unique_ids,
)

# One of these keys stands at the beginning of annotations.
_KEYS = re.compile(rb'\{\s*"(?:info|licenses|images|annotations|categories|type)"\s*:')
_FIRST_BYTES = 4096
# Images that are looked for to find the folder that their names belong to.
_TRIED = 100

_Fault = str


class AnnotatedImages(FileSource):
    """The images of an annotation file: one row for each caption, or for each image with its categories.

    Args:
        file: the annotations.

    Raises:
        DataError: the file is damaged, its images are not found, there is no row, or ijson is not installed.
    """

    reads_folders = False

    def __init__(self, file: Path) -> None:
        images: dict[Any, str] = {}
        faults: list[_Fault] = []
        for number, entry in enumerate(_items(file, "images")):
            match entry:
                case {"id": int() | str() as key, "file_name": str() as name} if name and key not in images:
                    images[key] = name
                case _:
                    faults.append(f"{file.name}: image {number} is {str(entry)[:80]}.")
        first = next(iter(_items(file, "annotations")), None)
        has_captions = isinstance(first, dict) and "caption" in first
        super().__init__(file, (IMAGE, CAPTION) if has_captions else (IMAGE, CAPTION, CATEGORIES))
        self.layout = "COCO captions" if has_captions else "annotated objects"
        self.ignored = 0
        """Annotations of objects that are malformed, or belong to no image or category."""
        self._rows: list[tuple[str, str, Any]] = []
        if has_captions:
            faults += self._add_captions(images)
        else:
            self._add_categories(images)
        self._faults = tuple(faults)
        self._root = _image_root(file, [name for _, name, _ in self._rows])
        names = [row[0] for row in self._rows] + [f"fault-{number}" for number in range(len(faults))]
        if not names:
            raise no_rows(file, "Give an annotation file with images.")
        self._ids = unique_ids(names)

    @property
    def count(self) -> int:
        """See ``FileSource``."""
        return len(self._ids)

    @property
    def fingerprint(self) -> str:
        """See ``FileSource``."""
        return hash_of(self.layout, self._rows, self._faults)

    def row(self, number: int) -> Row:
        """See ``FileSource``. Malformed entries are the last rows."""
        if number >= len(self._rows):
            raise Refused(BAD_ENTRY, self._faults[number - len(self._rows)])
        _, name, found = self._rows[number]
        try:
            path = resolve_inside(self._root, name, error=PairError)
        except PairError as error:
            raise Refused(BAD_ENTRY, f"{self.place.name}: {error}") from error
        cells = {IMAGE: file_cell(path, self._root)}
        cells |= {CATEGORIES: list(found)} if CATEGORIES in self.columns else {CAPTION: found}
        return row_of(self._ids[number], cells, self.columns)

    def describe(self) -> str:
        """See ``FileSource``."""
        ignored = f"; {self.ignored} annotations are malformed and ignored" if self.ignored else ""
        return super().describe() + ignored

    def _add_captions(self, images: dict[Any, str]) -> Iterator[_Fault]:
        """Adds a row for each caption. Yields what is wrong with the others."""
        for number, entry in enumerate(_items(self.place, "annotations")):
            match entry:
                case {"image_id": int() | str() as image, "caption": str() as caption} if image in images:
                    row = f"{image}-{entry.get('id', number)}"
                    self._rows.append((row, images[image], caption.strip()))
                case _:
                    yield f"{self.place.name}: annotation {number} is {str(entry)[:80]}."

    def _add_categories(self, images: dict[Any, str]) -> None:
        """Adds a row for each image."""
        names = {
            entry["id"]: entry["name"]
            for entry in _items(self.place, "categories")
            if isinstance(entry, dict)
            and isinstance(entry.get("id"), int)
            and isinstance(entry.get("name"), str)
        }
        found: dict[Any, dict[str, None]] = {image: {} for image in images}
        for entry in _items(self.place, "annotations"):
            match entry:
                case {"image_id": int() | str() as image, "category_id": int() as kind} if (
                    image in found and kind in names
                ):
                    found[image][names[kind]] = None
                case _:
                    self.ignored += 1
        self._rows += [(str(image), images[image], tuple(kinds)) for image, kinds in found.items()]


def annotation_files(place: Path) -> list[Path]:
    """The annotation files in a folder and its ``annotations/``, or the file itself if it is one."""
    if place.is_file():
        return [place] if _is_annotations(place) else []
    files = (file for folder in (place, place / "annotations") for file in folder.glob("*.json"))
    return sorted(filter(_is_annotations, files))


def _is_annotations(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            first = opened.read(_FIRST_BYTES).removeprefix(BOM_UTF8)
            return file.suffix == ".json" and bool(_KEYS.match(first))
    except OSError:
        return False


def _items(file: Path, key: str) -> Iterator[Any]:
    """Yields the entries of a list in the file's table, one by one.

    Raises:
        DataError: the file is damaged, or ijson is not installed.
    """
    try:
        import ijson
    except ImportError as error:
        raise DataError(
            "Annotations: large .json files are read by ijson, which is not installed. Run: pip install ijson"
        ) from error
    try:
        with file.open("rb") as opened:
            if opened.read(len(BOM_UTF8)) != BOM_UTF8:
                opened.seek(0)
            yield from ijson.items(opened, f"{key}.item", use_float=True)
    except (OSError, ValueError, ijson.JSONError) as error:
        # ijson's own errors may hold bytes.
        told = error.args[0] if error.args else ""
        text = told.decode(errors="replace") if isinstance(told, bytes) else str(error)
        reason = (text.strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(
            f"'{file.name}' is damaged ({reason}). It may be cut short: download it again."
        ) from error


def _image_root(file: Path, names: Iterable[str]) -> Path:
    """The folder that the images' names belong to.

    Raises:
        DataError: none of the first images is found.
    """
    # "captions_train2017.json" belongs to train2017/.
    split = file.stem.partition("_")[2]
    roots = [
        folder / inner
        for folder in (file.parent, file.parent.parent)
        for inner in ("", "images", split, f"images/{split}")
    ]
    tried = list(names)[:_TRIED]
    found = max(roots, key=lambda root: sum(os.path.isfile(root / name) for name in tried))
    if tried and not any(os.path.isfile(found / name) for name in tried):
        looked = ", ".join(dict.fromkeys(str(root) for root in roots))
        raise DataError(
            f"'{file.name}' names images such as '{tried[0][:100]}', which are not in {looked}. Put the "
            "folder of images beside the annotations."
        )
    return found
