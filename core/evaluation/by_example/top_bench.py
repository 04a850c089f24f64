"""Reading TOP-Bench (InstructBrush, section 5 and Table 3): 25 effects, each with 10 training and 5 test pairs.

The tree of the public archive is not documented, so every effect's folder may be laid out in any of these ways::

    {effect}/train/{i}_{0,1}.*  and  {effect}/test/{i}_{0,1}.*
    {effect}/{i}_{0,1}.*                                          0-9 are training pairs, 10-14 test pairs
    before/ and after/ with equal names, in {effect}/train and {effect}/test, or in {effect} (the first 10 in order are training pairs)
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import EvaluationError, PairError
from ...pairs.pairs import EditPairs, check_pair, find_pairs
from ...storage.image_files import read_image
from ...storage.json_text import parse_json
from .effects import TEST_PAIRS, TRAIN_PAIRS, Effect, Scope

Files = tuple[tuple[str, Path, Path], ...]
"""(name, before, after) of pairs."""

SIDE = 512
"""The paper compares at 512 x 512."""


@dataclass(frozen=True)
class KnownEffect:
    """A row of Table 3."""

    name: str
    words: str
    scope: Scope


TABLE_3 = (
    KnownEffect("boy2girl", "make boy and dog into a girl and cat", "local"),
    KnownEffect("midnight", "make it nighttime", "global"),
    KnownEffect("sea painting", "turn it into a painting", "global"),
    KnownEffect("sketch style", "make the image a pencil sketch", "global"),
    KnownEffect("summer", "make it summer", "global"),
    KnownEffect("wallpaper", "make it snow", "global"),
    KnownEffect("charcoal", "turn it into a charcoal drawing", "global"),
    KnownEffect("glasses", "add a pair of glasses", "local"),
    KnownEffect("painting", "Make it a painting", "global"),
    KnownEffect("painting snow", "make it snow", "global"),
    KnownEffect("pencil sketch", "as a pencil sketch", "global"),
    KnownEffect("purple", "make the sky a deep purple", "global"),
    KnownEffect("snow", "have it snow", "global"),
    KnownEffect("watercolor", "as a watercolor painting", "global"),
    KnownEffect("4dboy", "Turn the boy into a girl", "local"),
    KnownEffect("apple", "Turn peaches into apples", "local"),
    KnownEffect("cake", "Make it a chocolate cake", "local"),
    KnownEffect("cloud kitty", "Make the cat into a bear", "local"),
    KnownEffect("dog2cat", "Make the dog into a cat", "local"),
    KnownEffect("juice", "Make it a lemonade", "local"),
    KnownEffect("lava", "Turn it into lava", "global"),
    KnownEffect("rain", "Turn the rain into snow", "global"),
    KnownEffect("read books", "Make newspapers into books", "local"),
    KnownEffect("smile", "Add a smile", "local"),
    KnownEffect("traffic lights", "make it a heart-shaped light", "local"),
)
"""The paper's 14 global and 11 local effects with their instructions, as printed."""


@dataclass(frozen=True)
class TopBenchEffect:
    """An effect's files, read when they are needed (an ``EffectSource``)."""

    name: str
    scope: Scope
    words: str
    train: Files
    test: Files
    side: int | None = SIDE

    def load(self) -> Effect:
        """Every image upright, on white where it was transparent, 8 bit, RGB, scaled to cover ``side`` and cropped at its centre.

        Raises:
            EvaluationError: an image cannot be read, or a pair's images differ in size.
        """
        return Effect(self.name, self.scope, self.words, self._pairs(self.train), self._pairs(self.test))

    def _pairs(self, files: Files) -> EditPairs:
        try:
            return EditPairs(
                tuple(
                    check_pair(name, read_image(before, self.side), read_image(after, self.side))
                    for name, before, after in files
                )
            )
        except PairError as error:
            raise EvaluationError(f"Effect '{self.name}': {error}") from error


def read_top_bench(folder: str | Path, side: int | None = SIDE) -> tuple[TopBenchEffect, ...]:
    """The effects of a folder, in Table 3's order, each checked for its counts and for images that cannot be opened.

    Folders may be named with spaces, hyphens or underscores. A benchmark of one's own describes effects that Table 3 does not know in
    ``effects.json``: ``{"name": {"instruction": "make it snow", "scope": "global"}}``.

    Args:
        folder: holds a folder for each effect.
        side: images are scaled and cropped to a square of this many pixels; None keeps them, and then sides must be multiples of 8.

    Raises:
        EvaluationError: no folder, no effects, an unknown or doubled effect, wrong counts, a missing twin, a link that leads in a circle, an image
            that is empty, damaged or does not fit.
    """
    root = Path(folder)
    if not root.is_dir():
        raise EvaluationError(
            f"Benchmark folder '{folder}' does not exist. Unpack TOP-Bench and give the folder that holds the effects' folders."
        )
    known = {_key(effect.name): effect for effect in TABLE_3} | _described(root)
    found: dict[str, TopBenchEffect] = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.is_symlink()):
            continue
        _check_link(path, root)
        effect = known.get(_key(path.name))
        if effect is None:
            raise EvaluationError(
                f"'{path.name}' is none of TOP-Bench's effects (Table 3 of the paper). Rename the folder, move it away, or describe it in effects.json: "
                f'{{"{path.name}": {{"instruction": "...", "scope": "global"}}}}.'
            )
        if effect.name in found:
            raise EvaluationError(
                f"Effect '{effect.name}' is there twice, the second time as '{path.name}'. Keep one folder."
            )
        try:
            train, test = _split(path)
            _check_images(train + test, side)
        except PairError as error:
            raise EvaluationError(f"Effect '{path.name}': {error}") from error
        found[effect.name] = TopBenchEffect(effect.name, effect.scope, effect.words, train, test, side)
    if not found:
        raise EvaluationError(
            f"Benchmark folder '{root.name}' holds no effects. It must hold a folder for each effect, such as 'midnight' or 'smile'."
        )
    order = [effect.name for effect in known.values()]
    return tuple(sorted(found.values(), key=lambda effect: order.index(effect.name)))


def _split(folder: Path) -> tuple[Files, Files]:
    """Training and test files of an effect."""
    halves = folder / "train", folder / "test"
    for path in (*halves, *(part / name for part in (folder, *halves) for name in ("before", "after"))):
        if path.is_symlink():
            _check_link(path, folder)
    if halves[0].is_dir() != halves[1].is_dir():
        there, missing = ("train", "test") if halves[0].is_dir() else ("test", "train")
        raise PairError(f"there is a {there}/ folder but no {missing}/. Add it.")
    if halves[0].is_dir():
        loose = find_pairs(folder)
        if loose:
            raise PairError(
                f"there are pairs both in train/ and beside it ('{loose[0][1].name}'). Keep one of the two layouts."
            )
        train, test = (tuple(find_pairs(half)) for half in halves)
        for what, pairs, wanted in (("training", train, TRAIN_PAIRS), ("test", test, TEST_PAIRS)):
            if len(pairs) != wanted:
                raise PairError(
                    f"{len(pairs)} {what} pairs, TOP-Bench has {wanted} for every effect. Complete the folder."
                )
        return train, test
    pairs = tuple(find_pairs(folder))
    if len(pairs) != TRAIN_PAIRS + TEST_PAIRS:
        raise PairError(
            f"{len(pairs)} pairs, TOP-Bench has {TRAIN_PAIRS + TEST_PAIRS} for every effect: 10 for training (0-9) and 5 for testing (10-14). "
            "Complete the folder."
        )
    if not (folder / "before").is_dir() and sorted(name for name, _, _ in pairs) != sorted(
        map(str, range(len(pairs)))
    ):
        odd = next(name for name, _, _ in pairs if name not in map(str, range(len(pairs))))
        raise PairError(
            f"pair '{odd}' has no number of 0 to 14, so it is unknown whether it is for training or testing. Rename it, or use train/ and test/."
        )
    return pairs[:TRAIN_PAIRS], pairs[TRAIN_PAIRS:]


def _check_images(files: Files, side: int | None) -> None:
    """Open what a run would open hours later."""
    for name, *paths in files:
        sizes = []
        for path in paths:
            if not path.stat().st_size:
                raise PairError(f"Image '{path.name}' is empty (0 bytes). Copy it again.")
            height, width = read_image(path).shape[:2]
            sizes.append((width, height))
        if sizes[0] != sizes[1]:
            raise PairError(
                f"Pair '{name}': before is {sizes[0][0]} x {sizes[0][1]}, after is {sizes[1][0]} x {sizes[1][1]}. Crop or scale both alike."
            )
        if side is None and (sizes[0][0] % 8 or sizes[0][1] % 8):
            raise PairError(
                f"Pair '{name}' is {sizes[0][0]} x {sizes[0][1]}: sides must be multiples of 8. Give a size, such as --size 512."
            )


def _check_link(path: Path, below: Path) -> None:
    """A link may lead elsewhere, but not to nothing and not into a circle."""
    if not path.is_symlink():
        return
    target, here = os.path.realpath(path), os.path.realpath(path.parent)
    if os.path.islink(target) or here == target or here.startswith(target + os.sep):
        raise EvaluationError(
            f"'{path.relative_to(below.parent)}' is a link that leads back to where it is. Put the folder itself there."
        )
    if not path.exists():
        raise EvaluationError(
            f"'{path.relative_to(below.parent)}' is a link that leads nowhere. Put the folder itself there."
        )


def _described(root: Path) -> dict[str, KnownEffect]:
    path = root / "effects.json"
    if not path.is_file():
        return {}
    try:
        told = parse_json(path.read_bytes())
        described = {
            _key(name): KnownEffect(name, str(entry["instruction"]), entry["scope"])
            for name, entry in told.items()
        }
        wrong = next(
            (effect for effect in described.values() if effect.scope not in ("global", "local")), None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f'effects.json must be {{"name": {{"instruction": "...", "scope": "global" or "local"}}}} ({error!r}).'
        ) from error
    unsafe = next(
        (
            effect.name
            for effect in described.values()
            if effect.name.startswith(".") or set(effect.name) & set("/\\\0")
        ),
        None,
    )
    if unsafe is not None:
        raise EvaluationError(f"effects.json: '{unsafe}' is no name of a folder. Use the folder's own name.")
    if wrong is not None:
        raise EvaluationError(
            f"effects.json: the scope of '{wrong.name}' is '{wrong.scope}', it must be 'global' or 'local'."
        )
    return described


def _key(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
