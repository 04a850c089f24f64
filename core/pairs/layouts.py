"""How people keep before/after pairs in folders: lists, two folders, marked names, and the trees of InstructPix2Pix. Nothing is decoded here."""

import csv
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from ..errors import PairError
from ..storage.image_files import IMAGES
from ..storage.json_text import parse_json
from ..storage.names import resolve_inside

BEFORE = (
    *("before", "source_image", "original_image", "input_image", "control_image", "source_img", "src_img"),
    *("source", "original", "input", "control", "image", "file_name"),
)
AFTER = (
    "after",
    "edited_image",
    "output_image",
    "target_image",
    "edited_img",
    "target_img",
    "edited",
    "target",
    "output",
)
WORDS = (
    "words",
    "edit_prompt",
    "instruction",
    "edit_instruction",
    "edit",
    "prompt",
    "text",
    "caption",
    "edited_prompt_list",
)
MASK = ("mask", "mask_image", "mask_img")
"""What lists and tables call a pair's parts: the first name that is there counts."""
REASONING = "reasoning"
"""Indirect instructions, where there are any: a text or a list of texts."""

LISTS = ("pairs.json", "pairs.jsonl", "metadata.jsonl", "metadata.csv")
PROMPT = "prompt.json"
_SIDES = (
    *(
        ("before", "after"),
        ("original", "edited"),
        ("input", "output"),
        ("source", "target"),
        ("control", "target"),
    ),
    *(("src", "tgt"), ("orig", "edit"), ("a", "b")),
)
"""What folders and images before and after the edit are called."""
_TRAIN = "train"
"""The split of a data set that one learns from."""

Refused = Callable[[PairError], None]
"""Told of an entry that cannot be used; raises where that is the end."""


@dataclass(frozen=True)
class ListedPair:
    """A pair's files."""

    name: str
    before: Path
    after: Path
    words: str = ""
    """What the edit is, "" where that is not said; learning an instruction takes no words, fine-tuning does."""
    mask: Path | None = None
    """An image, white where the edit acts."""
    reasoning: tuple[str, ...] = ()
    """Indirect instructions that ask for the same edit, where there are any."""


def stop(error: PairError) -> None:
    """Stop at the first entry that cannot be used.

    Raises:
        PairError: always.
    """
    raise error


def pairs_in(folder: Path, refused: Refused = stop) -> list[ListedPair]:
    """The pairs of a folder itself, in natural order where no list gives one. The first of these layouts that is there counts:

    - ``pairs.json`` or ``pairs.jsonl``, a list of ``{"before": file, "after": file}``, and where they are given ``"words"``, ``"mask"`` and ``"reasoning"``;
      ``metadata.jsonl`` or ``metadata.csv`` of Hugging Face. The names in :data:`BEFORE` to :data:`MASK` are understood.
    - two folders such as ``before/`` and ``after/`` with equal names, and ``mask/`` where there are masks.
    - images such as ``{i}_0`` and ``{i}_1``, ``{i}_before`` and ``{i}_after`` or ``before_{i}`` and ``after_{i}``, and ``{i}_mask``. Words come from
      InstructPix2Pix's ``prompt.json``.

    Of the last two layouts, a text file named as the pair or one of its images holds its words.

    Args:
        folder: where to look.
        refused: told of an entry without its twin, and of one with a name that is no file of the folder.

    Raises:
        PairError: the folder or a list cannot be read, or two images have one name.
    """
    if not os.path.isfile(folder / PROMPT):
        for name in LISTS:
            if os.path.isfile(folder / name):
                return read_list(folder / name, refused)
    sides = _side_folders(folder)
    if sides is not None:
        before, after, masks = (_images(side) if side else {} for side in sides)
        return _joined(folder, before, after, masks, refused)
    return _marked_pairs(folder, refused)


def pairs_below(folder: Path, refused: Refused = stop) -> list[ListedPair]:
    """The pairs of a folder; where it holds none itself, those of the folders below that hold a list or a ``prompt.json``, or are
    called ``train``. Links are followed.

    Args:
        folder: where to look.
        refused: as in :func:`pairs_in`; also told of a folder below that cannot be used.

    Raises:
        PairError: as :func:`pairs_in`, of the folder itself.
    """
    found = pairs_in(folder, refused)
    if found:
        return found
    for place in folders_below(folder):
        if place.name == _TRAIN or any(os.path.isfile(place / name) for name in (*LISTS, PROMPT)):
            within = place.relative_to(folder).as_posix()
            try:
                found += [replace(pair, name=f"{within}/{pair.name}") for pair in pairs_in(place, refused)]
            except PairError as error:
                refused(error)
    return found


def folders_below(folder: Path) -> Iterator[Path]:
    """Every folder below one, in natural order, without hidden ones. Links are followed, each folder is visited once."""
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
    """Which of the names of folders beside each other are called before and after, and mask where there is one; None without both sides."""
    named = {_side_name(name): name for name in names}
    sides = next((sides for sides in _SIDES if sides[0] in named and sides[1] in named), None)
    return None if sides is None else (named[sides[0]], named[sides[1]], named.get("mask"))


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A key that sorts 2 before 10."""
    return [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part.lower())
        for part in re.split(r"(\d+)", text)
    ]


def first_of(names: tuple[str, ...], present: Mapping[str, Any]) -> str | None:
    """The first of some names that a table or an entry has."""
    return next((name for name in names if present.get(name) is not None), None)


def indirect_texts(value: Any, name: str) -> tuple[str, ...]:
    """The indirect instructions of a pair as a table or list has them: a text, a list of texts, or nothing. Blank ones are left out.

    Raises:
        PairError: something else; ``name`` is the pair's.
    """
    texts = value if isinstance(value, list) else [value]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise PairError(
            f"Pair '{name}': its reasoning is {str(value)[:60]}; a text or a list of texts is needed."
        )
    return tuple(text.strip() for text in texts if text and text.strip())


def direct_words(value: Any) -> str:
    """The words of a pair as a table or list has them: a text, or the first of a list of texts; "" where there are none."""
    texts = value if isinstance(value, list) else [value]
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), "")


def read_list(file: Path, refused: Refused = stop) -> list[ListedPair]:
    """The pairs of a list, see :func:`pairs_in`.

    Raises:
        PairError: it cannot be read.
    """
    found = []
    for number, entry in enumerate(_entries(file)):
        try:
            found.append(_listed(file, number, entry))
        except PairError as error:
            refused(error)
    return found


def _entries(file: Path) -> list[Any]:
    """The entries of a list; the lines of one in JSON lines, which are read one by one."""
    try:
        content = file.read_bytes()
        text = content.decode(json.detect_encoding(content))
        if file.suffix == ".jsonl":
            return [line for line in text.split("\n") if line.strip()]
        if file.suffix == ".csv":
            return _rows(text)
        listed = parse_json(text, finite=False)
        entries = listed.get("pairs") if isinstance(listed, dict) else listed
        if not isinstance(entries, list):
            raise ValueError("there is no list in it")
    except (OSError, ValueError, csv.Error) as error:
        raise PairError(
            f'{file.name} of \'{file.parent.name}\' must be a list of {{"before": file, "after": file}} ({error}).'
        ) from error
    return entries


def _rows(text: str) -> list[dict[str, str]]:
    """The rows of a table whose columns are parted by commas, or as other languages' spreadsheets do it by semicolons or tabs."""
    first = text.partition("\n")[0]
    rows = csv.DictReader(
        StringIO(text), delimiter=max(",;\t", key=first.count), skipinitialspace=True, restkey=""
    )
    return list(rows)


def _listed(file: Path, number: int, entry: Any) -> ListedPair:
    where = f"{file.name} of '{file.parent.name}', entry {number}"
    try:
        fields = parse_json(entry, finite=False) if isinstance(entry, str) else entry
        if not isinstance(fields, dict):
            raise ValueError(f"it is {str(fields)[:60]}")
        # Newer image folders have "before_file_name" for a column "before".
        fields = {name.strip().lower().removesuffix("_file_name"): value for name, value in fields.items()}
    except ValueError as error:
        raise PairError(f'{where} must be {{"before": file, "after": file}} ({error}).') from error

    def named(names: tuple[str, ...]) -> str | None:
        name = first_of(names, fields)
        if name is None or fields[name] == "":
            return None
        if not isinstance(fields[name], str):
            raise PairError(
                f"{where}: '{name}' is {str(fields[name])[:60]}. Write the name of an image inside the folder."
            )
        return fields[name]

    before, after, mask = named(BEFORE), named(AFTER), named(MASK)
    if before is None or after is None:
        raise PairError(
            f'{where} lacks \'{"before" if before is None else "after"}\': it must be {{"before": file, "after": file}}.'
        )
    words = first_of(WORDS, fields)
    return ListedPair(
        Path(before.replace("\\", "/")).stem,
        _inside(file, before),
        _inside(file, after),
        direct_words(fields[words]) if words else "",
        _inside(file, mask) if mask else None,
        indirect_texts(fields.get(REASONING), f"{number} of {file.parent.name}"),
    )


def _inside(file: Path, name: str) -> Path:
    """The image that a list names. Links are the user's own; the name itself stays inside the folder."""
    where = f"{file.name} of '{file.parent.name}'"
    plain = posixpath.normpath(name.replace("\\", "/"))
    if plain.startswith(("/", "../")) or plain == "..":
        raise PairError(f"{where}: '{name[:200]}' is outside the folder. Move the image into it.")
    try:
        path = resolve_inside(file.parent, plain, error=PairError)
    except PairError as error:
        raise PairError(f"{where}: {error}") from error
    if not os.path.isfile(path):
        raise PairError(f"{where}: '{name[:200]}' does not exist.")
    return path


def _side_folders(folder: Path) -> tuple[Path, Path, Path | None] | None:
    """The folders before and after, and that of masks where there is one."""
    sides = sides_among(path.name for path in _inside_of(folder) if os.path.isdir(path))
    return (
        None
        if sides is None
        else (folder / sides[0], folder / sides[1], folder / sides[2] if sides[2] else None)
    )


def _side_name(name: str) -> str:
    """``Original_Images`` and ``originals`` as ``original``."""
    return re.sub(r"(?<=.)(?:s|[ _-]?(?:image|img|image)s?)$", "", name.lower())


def _marked_pairs(folder: Path, refused: Refused) -> list[ListedPair]:
    """Pairs whose images lie in one folder and say in their names which side they are."""
    images = _images(folder)

    def marked(mark: str) -> dict[str, Path]:
        return {name: path for stem, path in images.items() if (name := _unmarked(stem, mark)) is not None}

    found = [(marked(before), marked(after)) for before, after in (*_SIDES[:-1], ("0", "1"))]
    # Names that make a pair come first: what is called "source" alone may be anything. Words come before numbers: before_0 and before_1 are no pair.
    found.sort(key=lambda sides: (not set(sides[0]) & set(sides[1]), not any(sides)))
    return _joined(folder, found[0][0], found[0][1], marked("mask"), refused)


def _unmarked(stem: str, mark: str) -> str | None:
    """A pair's name without what marks the side; None where the mark is not there."""
    if mark in ("0", "1"):
        return stem[:-2] if stem.endswith(f"_{mark}") else None
    found = re.fullmatch(rf"(?:(.*?)[ _.-]*(?<![a-z]){mark}|{mark}(?![a-z])[ _.-]*(.*))", stem, re.IGNORECASE)
    return None if found is None else found[1] or found[2] or ""


def _joined(
    folder: Path, before: dict[str, Path], after: dict[str, Path], masks: dict[str, Path], refused: Refused
) -> list[ListedPair]:
    """Images of one name as pairs."""
    for name in sorted(set(before) ^ set(after), key=natural):
        which, path = ("after", before[name]) if name in before else ("before", after[name])
        refused(
            PairError(
                f"Image '{path.relative_to(folder)}' has no twin: the {which} image of pair '{name}' is missing. Add it or remove this one."
            )
        )
    names = sorted(set(before) & set(after), key=natural)
    try:
        told = _prompt(folder) if names else ""
    except (OSError, ValueError) as error:
        refused(_no_words(folder.name, error))
        return []
    found = []
    for name in names:
        pair = ListedPair(name or folder.name, before[name], after[name], mask=masks.get(name))
        try:
            found.append(replace(pair, words=_words_beside(folder, name, pair.before, pair.after) or told))
        except (OSError, ValueError) as error:
            refused(_no_words(pair.name, error))
    return found


def _no_words(name: str, error: Exception) -> PairError:
    return PairError(f"The words of '{name}' cannot be read ({error}). Mend the file, and save it as UTF-8.")


def _prompt(folder: Path) -> str:
    """The instruction in InstructPix2Pix's prompt.json; "" where there is none."""
    if not os.path.isfile(folder / PROMPT):
        return ""
    told = parse_json((folder / PROMPT).read_bytes(), finite=False)
    if not isinstance(told, dict):
        raise ValueError(f"{PROMPT} is no table")
    return direct_words(told.get("edit"))


def _words_beside(folder: Path, name: str, before: Path, after: Path) -> str:
    """What a text file of the pair's name says."""
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
    """Stem -> file."""
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
            f"Folder '{folder.name}' cannot be read ({error}). Allow it, or move the images elsewhere."
        ) from error
