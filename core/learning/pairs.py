"""Before/after pairs: found in a folder or made from two batches, and checked before anything is learned from them."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import PairError
from ..picture_files import PICTURES, read_picture
from ..pictures import to_image

MAX_PAIRS = 1000
MIN_SIDE = 16
_THUMBNAIL_SIDE = 128


@dataclass(frozen=True)
class EditPair:
    """One picture before and after the edit, both [H, W, 3] fp32 in 0..1."""

    before: Tensor
    after: Tensor
    name: str


@dataclass(frozen=True)
class EditPairs:
    """At least one pair; every pair's two pictures have one size, which may differ from pair to pair."""

    pairs: tuple[EditPair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> EditPair:
        return self.pairs[index]

    def __iter__(self) -> Iterator[EditPair]:
        return iter(self.pairs)

    def without(self, index: int) -> "EditPairs":
        """All but one pair, held out to watch learning; itself when it is the only pair."""
        rest = tuple(pair for position, pair in enumerate(self.pairs) if position != index % len(self.pairs))
        return EditPairs(rest) if rest else self


def load_pairs(folder: str | Path, size: int | None = None) -> EditPairs:
    """Read the pairs of a folder.

    Three layouts are read: ``{i}_0.*`` and ``{i}_1.*``; sub-folders ``before/`` and ``after/`` with equal names; or ``pairs.json``, a list of
    ``{"before": file, "after": file}`` with files inside the folder.

    Args:
        folder: where the pictures are.
        size: when given, every picture is scaled to cover a square of this many pixels and cropped at its centre.

    Raises:
        PairError: no folder, no pairs, a missing twin, sizes that differ within a pair, an unreadable or huge picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PairError(f"Pairs folder '{folder}' does not exist. Put the pictures in a folder and give its path.")
    found = find_pairs(folder)
    if not found:
        raise PairError(
            f"Pairs folder '{folder.name}' holds no pairs. Name the pictures 0_0.png (before) and 0_1.png (after), 1_0.png and 1_1.png and so on, "
            "or use sub-folders before/ and after/ with equal names, or a pairs.json."
        )
    if len(found) > MAX_PAIRS:
        raise PairError(f"Pairs folder '{folder.name}' holds {len(found)} pairs, at most {MAX_PAIRS} can be learned from. Choose the clearest ones.")
    return EditPairs(tuple(check_pair(name, read_picture(before, size), read_picture(after, size)) for name, before, after in found))


def make_pairs(before: Tensor, after: Tensor, names: Sequence[str] | None = None) -> EditPairs:
    """Pairs from two batches of pictures.

    Args:
        before, after: [N, H, W, C] in 0..1, C at least 3 (further channels are dropped).
        names: N names for messages; numbers when not given.

    Raises:
        PairError: batches of different length or size, or none at all.
    """
    if before.ndim != 4 or after.ndim != 4 or before.shape[-1] < 3 or after.shape[-1] < 3:
        raise PairError(f"Pairs: pictures must be [N, H, W, 3], got before {tuple(before.shape)} and after {tuple(after.shape)}.")
    if before.shape[0] != after.shape[0]:
        raise PairError(
            f"Pairs: {before.shape[0]} pictures before but {after.shape[0]} after. Every picture needs its twin, in the same order: "
            "give batches of equal length."
        )
    if not 1 <= before.shape[0] <= MAX_PAIRS:
        raise PairError(f"Pairs: {before.shape[0]} pairs were given, between 1 and {MAX_PAIRS} are needed.")
    names = names or [str(index) for index in range(before.shape[0])]
    return EditPairs(tuple(check_pair(name, x[..., :3].float(), y[..., :3].float()) for name, x, y in zip(names, before, after, strict=True)))


def thumbnail(pairs: EditPairs) -> Image.Image:
    """Before and after of the first pair, side by side."""
    halves = [to_image(picture).resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)) for picture in (pairs[0].before, pairs[0].after)]
    both = Image.new("RGB", (2 * _THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    for index, half in enumerate(halves):
        both.paste(half, (index * _THUMBNAIL_SIDE, 0))
    return both


def check_pair(name: str, before: Tensor, after: Tensor) -> EditPair:
    """A pair of two pictures [H, W, 3].

    Raises:
        PairError: sizes that differ, a side below 16 pixels, values that are not finite.
    """
    if before.shape != after.shape:
        raise PairError(
            f"Pair '{name}': before is {before.shape[1]} x {before.shape[0]}, after is {after.shape[1]} x {after.shape[0]}. "
            "Both pictures of a pair must have the same size: crop or scale them alike."
        )
    if min(before.shape[:2]) < MIN_SIDE:
        raise PairError(f"Pair '{name}' is {before.shape[1]} x {before.shape[0]}: each side needs at least {MIN_SIDE} pixels.")
    if not (torch.isfinite(before).all() and torch.isfinite(after).all()):
        raise PairError(f"Pair '{name}' holds values that are not finite. Save the pictures again.")
    return EditPair(before, after, name)


def find_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """(name, before, after) of every pair of a folder, in natural order; nothing is opened. See :func:`load_pairs` for the layouts.

    Raises:
        PairError: a missing twin, two pictures of one name, a malformed ``pairs.json``.
    """
    if (folder / "pairs.json").is_file():
        return [(pair.before.stem, pair.before, pair.after) for pair in read_manifest(folder)]
    if (folder / "before").is_dir() and (folder / "after").is_dir():
        before, after = _pictures(folder / "before"), _pictures(folder / "after")
    else:
        pictures = _pictures(folder)
        before = {stem[:-2]: path for stem, path in pictures.items() if stem.endswith("_0")}
        after = {stem[:-2]: path for stem, path in pictures.items() if stem.endswith("_1")}
    alone = sorted(set(before) ^ set(after))
    if alone:
        which, path = ("after", before[alone[0]]) if alone[0] in before else ("before", after[alone[0]])
        raise PairError(f"Picture '{path.relative_to(folder)}' has no twin: the {which} picture of pair '{alone[0]}' is missing. Add it or remove this one.")
    return [(stem, before[stem], after[stem]) for stem in sorted(before, key=_natural)]


@dataclass(frozen=True)
class ListedPair:
    """An entry of ``pairs.json``."""

    before: Path
    after: Path
    words: str
    """What the edit is, "" where the list does not say; learning an instruction takes no words, fine-tuning does."""
    mask: Path | None
    """A picture, white where the edit acts."""
    reasoning: tuple[str, ...] = ()
    """Indirect instructions that ask for the same edit, where there are any."""


def indirect_texts(value: Any, name: str) -> tuple[str, ...]:
    """The indirect instructions of a pair as a table or list has them: a text, a list of texts, or nothing. Blank ones are left out.

    Raises:
        PairError: something else; ``name`` is the pair's.
    """
    texts = value if isinstance(value, list) else [value]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise PairError(f"Pair '{name}': its reasoning is {str(value)[:60]}; a text or a list of texts is needed.")
    return tuple(text.strip() for text in texts if text and text.strip())


def read_manifest(folder: Path) -> list[ListedPair]:
    """The entries of a folder's ``pairs.json``: ``{"before": file, "after": file}`` each, and where they are given ``"words"``, ``"mask": file`` and
    ``"reasoning"``, a text or a list of texts.

    Raises:
        PairError: it is malformed, or a file is missing or outside the folder.
    """
    root = folder.resolve()

    def inside(name: str) -> Path:
        if not (root / name).resolve().is_relative_to(root):
            raise PairError(f"pairs.json of '{folder.name}': '{name}' is outside the folder. Move the picture into it.")
        if not (root / name).is_file():
            raise PairError(f"pairs.json of '{folder.name}': '{name}' does not exist.")
        return root / name

    try:
        content = json.loads((folder / "pairs.json").read_text("utf-8"))
        entries = content["pairs"] if isinstance(content, dict) else content
        named = [(str(entry["before"]), str(entry["after"]), str(entry.get("words") or ""), entry.get("mask"), entry.get("reasoning")) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PairError(f'pairs.json of \'{folder.name}\' must be a list of {{"before": file, "after": file}} ({error}).') from error
    return [
        ListedPair(inside(before), inside(after), words, inside(str(mask)) if mask else None, indirect_texts(reasoning, f"{number} of {folder.name}"))
        for number, (before, after, words, mask, reasoning) in enumerate(named)
    ]


def _pictures(folder: Path) -> dict[str, Path]:
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES and path.is_file() and not path.name.startswith("."):
            if path.stem in pictures:
                raise PairError(f"'{pictures[path.stem].name}' and '{path.name}' have the same name. Keep one of them.")
            pictures[path.stem] = path
    return pictures


def _natural(text: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", text)]
