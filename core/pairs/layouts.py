"""Folders of before/after pairs: lists, two folders, marked names, and the trees of InstructPix2Pix."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import PairError
from ..storage.files import read_file
from ..storage.image_files import IMAGES
from ..storage.json_text import decoded_text, parse_json
from .pair_lists import ListedPair, Refusals, Refuse, direct_words, read_list, stop

LISTS = ("pairs.json", "pairs.jsonl", "metadata.jsonl", "metadata.csv")
PROMPT = "prompt.json"
# Names of folders and images before and after the edit.
_SIDES = (
    *(("before", "after"), ("original", "edited"), ("input", "output"), ("source", "target")),
    *(("control", "target"), ("src", "tgt"), ("orig", "edit"), ("a", "b")),
)
_MASK = "mask"
# Largest files of words that are read.
_MOST_WORDS_BYTES = 2**20
# The split of a data set that is for learning.
_TRAIN = "train"

Layout = Literal["list", "folders", "names", "below", "order", "table"]
"""How a folder says which images are pairs: a list, two folders, marks in names, folders below it, the order
of plain names, or a parquet table that holds them."""


class MissingPartnerError(PairError):
    """An image has no partner.

    Args:
        message: for the user.
        image: the image that is there.
        side: of that image, "before" or "after"; "" if nothing says which.
        partner: where the missing image would be found; None if any new name does.
    """

    def __init__(self, message: str, image: Path, side: str = "", partner: Path | None = None) -> None:
        super().__init__(message)
        self.image = image
        self.side = side
        self.partner = partner


def pairs_in(folder: Path, refuse: Refuse = stop, most: int | None = None) -> list[ListedPair]:
    """The pairs of a folder itself, in the order of its list or else in natural order.

    The first of these layouts that is present counts:

    - A list ``pairs.json`` or ``pairs.jsonl`` of ``{"before": file, "after": file}``, optionally with
      ``"words"``, ``"mask"`` and ``"reasoning"``; or ``metadata.jsonl`` or ``metadata.csv`` of Hugging Face.
      The names in core/pairs/pair_lists.py are understood.
    - Two folders such as ``before/`` and ``after/`` with equal names, and optionally ``mask/``.
    - Images such as ``{i}_0`` and ``{i}_1``, ``{i}_before`` and ``{i}_after``, ``before_{i}`` and
      ``after_{i}``, ``{i}-a`` and ``{i}-b``, or ``{i}`` and ``{i}_edited``, and optionally ``{i}_mask``.
      Words come from InstructPix2Pix's ``prompt.json``.

    In the last two layouts, a text file named as the pair or as one of its images holds its words.

    Args:
        folder: where to look.
        refuse: called for an image without its partner, and for a name that is not a file of the folder.
        most: entries that a list may have; None for any number.

    Raises:
        PairError: the folder or a list cannot be read, a list has too many entries, or two images have one
            name.
    """
    if not os.path.isfile(folder / PROMPT):
        for name in LISTS:
            if os.path.isfile(folder / name):
                return read_list(folder / name, refuse, most)
    sides = _side_folders(folder)
    if sides is None:
        return _marked_pairs(folder, refuse)
    before_folder, after_folder, mask_folder = sides
    masks = _images(mask_folder) if mask_folder else {}
    before, after = _images(before_folder), _images(after_folder)

    def partner(name: str, side: str) -> Path:
        image = before[name] if side == "after" else after[name]
        return (after_folder if side == "after" else before_folder) / image.name

    return _joined(folder, (before, after), masks, partner, refuse)


def pairs_below(folder: Path, refuse: Refuse = stop, most: int | None = None) -> list[ListedPair]:
    """The pairs of a folder. If it holds none itself: those of all folders below it that hold a list or a
    ``prompt.json``, or are called ``train``. Follows links.

    Args:
        folder: where to look.
        refuse: as in ``pairs_in``; also called for a folder below that cannot be used.
        most: as in ``pairs_in``.

    Raises:
        PairError: as in ``pairs_in``, for the folder itself.
    """
    found = pairs_in(folder, refuse, most)
    if found:
        return found
    for place in folders_below(folder):
        if place.name == _TRAIN or any(os.path.isfile(place / name) for name in (*LISTS, PROMPT)):
            within = place.relative_to(folder).as_posix()
            try:
                inside = pairs_in(place, refuse, most)
                found += [replace(pair, name=f"{within}/{pair.name}") for pair in inside]
            except PairError as error:
                refuse(error)
    return found


def pairs_of(folder: Path, refuse: Refuse = stop, most: int | None = None) -> tuple[list[ListedPair], Layout]:
    """The pairs of a folder and its layout. If no list, folder or name says which images are pairs, they are
    paired in the natural order of their names: the first is before, the second after, and so on.

    Args:
        folder: where to look.
        refuse, most: as in ``pairs_below``.

    Raises:
        PairError: as in ``pairs_in``.
    """
    refused = Refusals()

    def count(error: PairError) -> None:
        refused.add(error)
        refuse(error)

    found = pairs_below(folder, count, most)
    layout = _layout(folder)
    if layout != "names":
        return found, layout
    if found or refused.count:
        return found, "names" if _images(folder) else "below"
    return _pairs_in_order(folder, refuse), "order"


def mask_place(folder: Path, pair: ListedPair, layout: Layout) -> Path | None:
    """Where the mask of a pair is, or would be found; None if only its list or table can name it."""
    if isinstance(pair.mask, Path) or layout in ("list", "below", "table"):
        return pair.mask if isinstance(pair.mask, Path) else None
    if layout != "folders":
        # A pair without a name, of before.png and after.png, is called like its folder.
        name = _MASK if _unmarked(pair.before.stem, "before") == "" else f"{pair.name}_{_MASK}"
        return folder / f"{name}.png"
    sides = _side_folders(folder)
    return (sides[2] if sides and sides[2] else folder / _MASK) / f"{pair.name}.png"


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
            return named[before], named[after], named.get(_MASK)
    return None


def natural(text: str) -> tuple[list[tuple[bool, int, str]], str]:
    """A sort key that puts 2 before 10. Different texts have different keys."""
    parts = [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part.lower())
        for part in re.split(r"(\d+)", text)
    ]
    return parts, text


def _layout(folder: Path) -> Layout:
    """The layout of the folder itself."""
    if not os.path.isfile(folder / PROMPT) and any(os.path.isfile(folder / name) for name in LISTS):
        return "list"
    return "names" if _side_folders(folder) is None else "folders"


def _pairs_in_order(folder: Path, refuse: Refuse) -> list[ListedPair]:
    """Pairs of the images of a folder in natural order. ``{i}_mask`` is the mask of the image ``{i}``."""
    images = _images(folder)
    masks = {name: path for stem, path in images.items() if (name := _unmarked(stem, _MASK)) is not None}
    plain = [images[stem] for stem in sorted(images, key=natural) if images[stem] not in masks.values()]
    if len(plain) % 2:
        last = plain.pop()
        refuse(
            MissingPartnerError(
                f"Image '{last.name}' has no partner: the images are paired in the order of their names, and "
                "their number is odd. Add the missing one or remove this one.",
                last,
            )
        )
    return [
        ListedPair(before.stem, before, after, mask=masks.get(before.stem))
        for before, after in zip(plain[::2], plain[1::2], strict=True)
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

    # Words come before numbers, since before_0 and before_1 are no pair.
    marks = (*_SIDES[:-1], ("0", "1"), _SIDES[-1])
    found = [(sides, *map(marked, sides)) for sides in marks]
    # A name may end with a letter by chance, so letters count only where they form pairs.
    found = [each for each in found if each[0] != _SIDES[-1] or set(each[1]) & set(each[2])]
    for sides, *images_of_side in found:
        if sides == ("0", "1"):
            _drop_numbered(images, images_of_side)
    # Marks that form pairs come first, since an image that is called "source" alone may be anything.
    found.sort(key=lambda each: (not set(each[1]) & set(each[2]), not (each[1] or each[2])))
    sides, before, after = found[0]
    if sides in _SIDES[:-1]:
        # photo and photo_edited.
        before = {**{name: images[name] for name in after if name in images}, **before}

    def partner(name: str, side: str) -> Path:
        image = before[name] if side == "after" else after[name]
        mark = sides[side == "after"]
        return folder / f"{f'{name}_' if name else ''}{mark}{image.suffix}"

    return _joined(folder, (before, after), marked(_MASK), partner, refuse)


def _drop_numbered(images: dict[str, Path], sides: Sequence[dict[str, Path]]) -> None:
    """Drops images that a camera numbered: IMG_1 and IMG_2, or IMG_0 to IMG_3, are no sides of IMG."""
    for name in set(sides[0]) | set(sides[1]):
        if f"{name}_2" in images and (f"{name}_3" in images or not all(name in side for side in sides)):
            for side in sides:
                side.pop(name, None)


def _unmarked(stem: str, mark: str) -> str | None:
    """A pair's name without the mark of its side; None if the mark is missing."""
    if mark in ("0", "1"):
        return stem[:-2] if stem.endswith(f"_{mark}") else None
    if mark in ("a", "b"):
        # A letter without a separator, or alone, is only a name.
        found = re.fullmatch(rf"(.+?)[ _.-]+{mark}", stem, re.IGNORECASE)
        return None if found is None else found[1]
    found = re.fullmatch(rf"(?:(.*?)[ _.-]*(?<![a-z]){mark}|{mark}(?![a-z])[ _.-]*(.*))", stem, re.IGNORECASE)
    return None if found is None else found[1] or found[2] or ""


def _joined(
    folder: Path,
    sides: tuple[dict[str, Path], dict[str, Path]],
    masks: dict[str, Path],
    partner: Callable[[str, str], Path],
    refuse: Refuse,
) -> list[ListedPair]:
    """Joins images of equal names to pairs. ``partner`` names the missing image of a pair."""
    before, after = sides
    for name in sorted(set(before) ^ set(after), key=natural):
        side, missing = ("before", "after") if name in before else ("after", "before")
        path = before[name] if name in before else after[name]
        refuse(
            MissingPartnerError(
                f"Image '{path.relative_to(folder)}' has no partner: the {missing} image of pair '{name}' is "
                "missing. Add it or remove this one.",
                path,
                side,
                partner(name, missing),
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
            found.append(
                replace(pair, words=_words_beside(folder, name, before[name], after[name]) or prompt)
            )
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
    fields = parse_json(read_file(folder / PROMPT, _MOST_WORDS_BYTES), finite=False)
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
    return decoded_text(read_file(file, _MOST_WORDS_BYTES)).strip()


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
