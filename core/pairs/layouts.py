"""Folders of before/after pairs: lists, two folders, marked names, and the trees of InstructPix2Pix."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import PairError
from ..storage.image_files import IMAGES
from ..storage.json_text import parse_json
from .pair_lists import ListedPair, Refuse, direct_words, read_list, stop

LISTS = ("pairs.json", "pairs.jsonl", "metadata.jsonl", "metadata.csv")
PROMPT = "prompt.json"
# Names of folders and images before and after the edit.
_SIDES = (
    *(("before", "after"), ("original", "edited"), ("input", "output"), ("source", "target")),
    *(("control", "target"), ("src", "tgt"), ("orig", "edit"), ("a", "b")),
)
# The split of a data set that is for learning.
_TRAIN = "train"


def pairs_in(folder: Path, refuse: Refuse = stop) -> list[ListedPair]:
    """The pairs of a folder itself, in the order of its list or else in natural order.

    The first of these layouts that is present counts:

    - A list ``pairs.json`` or ``pairs.jsonl`` of ``{"before": file, "after": file}``, optionally with
      ``"words"``, ``"mask"`` and ``"reasoning"``; or ``metadata.jsonl`` or ``metadata.csv`` of Hugging Face.
      The names in core/pairs/pair_lists.py are understood.
    - Two folders such as ``before/`` and ``after/`` with equal names, and optionally ``mask/``.
    - Images such as ``{i}_0`` and ``{i}_1``, ``{i}_before`` and ``{i}_after`` or ``before_{i}`` and
      ``after_{i}``, and optionally ``{i}_mask``. Words come from InstructPix2Pix's ``prompt.json``.

    In the last two layouts, a text file named as the pair or as one of its images holds its words.

    Args:
        folder: where to look.
        refuse: called for an image without its partner, and for a name that is not a file of the folder.

    Raises:
        PairError: the folder or a list cannot be read, or two images have one name.
    """
    if not os.path.isfile(folder / PROMPT):
        for name in LISTS:
            if os.path.isfile(folder / name):
                return read_list(folder / name, refuse)
    sides = _side_folders(folder)
    if sides is None:
        return _marked_pairs(folder, refuse)
    before_folder, after_folder, mask_folder = sides
    masks = _images(mask_folder) if mask_folder else {}
    return _joined(folder, _images(before_folder), _images(after_folder), masks, refuse)


def pairs_below(folder: Path, refuse: Refuse = stop) -> list[ListedPair]:
    """The pairs of a folder. If it holds none itself: those of all folders below it that hold a list or a
    ``prompt.json``, or are called ``train``. Follows links.

    Args:
        folder: where to look.
        refuse: as in ``pairs_in``; also called for a folder below that cannot be used.

    Raises:
        PairError: as in ``pairs_in``, for the folder itself.
    """
    found = pairs_in(folder, refuse)
    if found:
        return found
    for place in folders_below(folder):
        if place.name == _TRAIN or any(os.path.isfile(place / name) for name in (*LISTS, PROMPT)):
            within = place.relative_to(folder).as_posix()
            try:
                found += [replace(pair, name=f"{within}/{pair.name}") for pair in pairs_in(place, refuse)]
            except PairError as error:
                refuse(error)
    return found


def folders_below(folder: Path) -> Iterator[Path]:
    """Every folder below one except hidden ones, in natural order. Follows links, and visits each folder
    once."""
    visited = {os.path.realpath(folder)}
    for path, names, _ in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(names, key=natural):
            real = os.path.realpath(os.path.join(path, name))
            if not name.startswith((".", "__MACOSX")) and real not in visited:
                visited.add(real)
                kept.append(name)
        names[:] = kept
        yield from (Path(path) / name for name in kept)


def sides_among(names: Iterable[str]) -> tuple[str, str, str | None] | None:
    """Which of some folder names mean before, after and mask (None without masks); None without both
    sides."""
    named = {_side_name(name): name for name in names}
    for before, after in _SIDES:
        if before in named and after in named:
            return named[before], named[after], named.get("mask")
    return None


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A sort key that puts 2 before 10."""
    return [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part.lower())
        for part in re.split(r"(\d+)", text)
    ]


def _side_folders(folder: Path) -> tuple[Path, Path, Path | None] | None:
    """The folders before and after, and of masks."""
    sides = sides_among(path.name for path in _inside_of(folder) if os.path.isdir(path))
    if sides is None:
        return None
    before, after, mask = sides
    return folder / before, folder / after, folder / mask if mask else None


def _side_name(name: str) -> str:
    """Reduces names such as ``Original_Images`` and ``originals`` to ``original``."""
    return re.sub(r"(?<=.)(?:s|[ _-]?(?:image|img|image)s?)$", "", name.lower())


def _marked_pairs(folder: Path, refuse: Refuse) -> list[ListedPair]:
    """Pairs whose images lie in one folder, with the side in their names."""
    images = _images(folder)

    def marked(mark: str) -> dict[str, Path]:
        return {name: path for stem, path in images.items() if (name := _unmarked(stem, mark)) is not None}

    # Words come before numbers, since before_0 and before_1 are no pair. "a" and "b" are only names of
    # folders.
    found = [(marked(before), marked(after)) for before, after in (*_SIDES[:-1], ("0", "1"))]
    # Marks that form pairs come first, since an image that is called "source" alone may be anything.
    found.sort(key=lambda sides: (not set(sides[0]) & set(sides[1]), not any(sides)))
    before, after = found[0]
    return _joined(folder, before, after, marked("mask"), refuse)


def _unmarked(stem: str, mark: str) -> str | None:
    """A pair's name without the mark of its side; None if the mark is missing."""
    if mark in ("0", "1"):
        return stem[:-2] if stem.endswith(f"_{mark}") else None
    found = re.fullmatch(rf"(?:(.*?)[ _.-]*(?<![a-z]){mark}|{mark}(?![a-z])[ _.-]*(.*))", stem, re.IGNORECASE)
    return None if found is None else found[1] or found[2] or ""


def _joined(
    folder: Path, before: dict[str, Path], after: dict[str, Path], masks: dict[str, Path], refuse: Refuse
) -> list[ListedPair]:
    """Joins images of equal names to pairs."""
    for name in sorted(set(before) ^ set(after), key=natural):
        missing = "after" if name in before else "before"
        path = before[name] if name in before else after[name]
        refuse(
            PairError(
                f"Image '{path.relative_to(folder)}' has no partner: the {missing} image of pair '{name}' is "
                "missing. Add it or remove this one."
            )
        )
    names = sorted(set(before) & set(after), key=natural)
    try:
        prompt = _prompt(folder) if names else ""
    except (OSError, ValueError) as error:
        refuse(_no_words(folder.name, error))
        return []
    found = []
    for name in names:
        pair = ListedPair(name or folder.name, before[name], after[name], mask=masks.get(name))
        try:
            found.append(replace(pair, words=_words_beside(folder, name, pair.before, pair.after) or prompt))
        except (OSError, ValueError) as error:
            refuse(_no_words(pair.name, error))
    return found


def _no_words(name: str, error: Exception) -> PairError:
    return PairError(
        f"The words of '{name}' cannot be read ({error}). Repair the file, and save it as UTF-8."
    )


def _prompt(folder: Path) -> str:
    """The instruction in InstructPix2Pix's prompt.json; "" if there is none."""
    if not os.path.isfile(folder / PROMPT):
        return ""
    fields = parse_json((folder / PROMPT).read_bytes(), finite=False)
    if not isinstance(fields, dict):
        raise ValueError(f"{PROMPT} is not a table")
    return direct_words(fields.get("edit"))


def _words_beside(folder: Path, name: str, before: Path, after: Path) -> str:
    """The text of a file with the pair's name."""
    files = [
        after.with_suffix(".txt"),
        before.with_suffix(".txt"),
        *([folder / f"{name}.txt"] if name else []),
    ]
    file = next((file for file in files if os.path.isfile(file)), None)
    if file is None:
        return ""
    content = file.read_bytes()
    return content.decode(json.detect_encoding(content)).strip()


def _images(folder: Path) -> dict[str, Path]:
    """The images of a folder by their stems."""
    images: dict[str, Path] = {}
    for path in _inside_of(folder):
        if path.suffix.lower() in IMAGES and os.path.isfile(path):
            if path.stem in images:
                raise PairError(
                    f"'{images[path.stem].name}' and '{path.name}' have the same name. Keep one of them."
                )
            images[path.stem] = path
    return images


def _inside_of(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise PairError(
            f"Folder '{folder.name}' cannot be read ({error}). Check its permissions, or move the images to "
            "another folder."
        ) from error
