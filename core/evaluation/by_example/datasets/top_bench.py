"""Reads TOP-Bench (InstructBrush, section 5 and Table 3): 25 effects with 10 training and 5 test pairs each.

The layout of the public archive is not documented, so an effect's folder may have any of these layouts::

    {effect}/train/{i}_{0,1}.*  and  {effect}/test/{i}_{0,1}.*
    {effect}/{i}_{0,1}.*                  0-9 are training pairs, 10-14 test pairs
    before/ and after/ with equal names, in {effect}/train and {effect}/test, or in {effect}
                                          (there the first 10 in order are training pairs)
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ....errors import EvaluationError, PairError
from ....pairs.pairs import find_pairs
from ....storage.json_text import parse_json
from ..effects import TEST_PAIRS, TRAIN_PAIRS, Scope
from .effect_files import SIDE, EffectFiles, Files, check_images


@dataclass(frozen=True)
class EffectDescription:
    """An effect's name, instruction and scope, as in Table 3."""

    name: str
    words: str
    scope: Scope


TABLE_3 = (
    EffectDescription("boy2girl", "make boy and dog into a girl and cat", "local"),
    EffectDescription("midnight", "make it nighttime", "global"),
    EffectDescription("sea painting", "turn it into a painting", "global"),
    EffectDescription("sketch style", "make the image a pencil sketch", "global"),
    EffectDescription("summer", "make it summer", "global"),
    EffectDescription("wallpaper", "make it snow", "global"),
    EffectDescription("charcoal", "turn it into a charcoal drawing", "global"),
    EffectDescription("glasses", "add a pair of glasses", "local"),
    EffectDescription("painting", "Make it a painting", "global"),
    EffectDescription("painting snow", "make it snow", "global"),
    EffectDescription("pencil sketch", "as a pencil sketch", "global"),
    EffectDescription("purple", "make the sky a deep purple", "global"),
    EffectDescription("snow", "have it snow", "global"),
    EffectDescription("watercolor", "as a watercolor painting", "global"),
    EffectDescription("4dboy", "Turn the boy into a girl", "local"),
    EffectDescription("apple", "Turn peaches into apples", "local"),
    EffectDescription("cake", "Make it a chocolate cake", "local"),
    EffectDescription("cloud kitty", "Make the cat into a bear", "local"),
    EffectDescription("dog2cat", "Make the dog into a cat", "local"),
    EffectDescription("juice", "Make it a lemonade", "local"),
    EffectDescription("lava", "Turn it into lava", "global"),
    EffectDescription("rain", "Turn the rain into snow", "global"),
    EffectDescription("read books", "Make newspapers into books", "local"),
    EffectDescription("smile", "Add a smile", "local"),
    EffectDescription("traffic lights", "make it a heart-shaped light", "local"),
)
"""The paper's 14 global and 11 local effects with their instructions, as printed."""


def read_top_bench(folder: str | Path, side: int | None = SIDE) -> tuple[EffectFiles, ...]:
    """Reads the list of effects in Table 3's order. Checks the number of pairs and opens every image.

    Folder names may use spaces, hyphens or underscores. Effects that are not in Table 3 are described in
    ``effects.json``: ``{"name": {"instruction": "make it snow", "scope": "global"}}``.

    Args:
        folder: holds a folder for each effect.
        side: images are scaled and cropped to a square of this many pixels. None keeps their size; then the
            sides must be multiples of 8.

    Raises:
        EvaluationError: the folder is missing or has no effects; an effect is unknown, duplicated or
            incomplete; a link leads in a circle; an image is empty, damaged or of the wrong size.
    """
    root = Path(folder)
    if not root.is_dir():
        raise EvaluationError(
            f"Benchmark folder '{folder}' does not exist. "
            "Unpack TOP-Bench and give the folder that holds the effects' folders."
        )
    descriptions = {_key(effect.name): effect for effect in TABLE_3} | _own_descriptions(root)
    effects: dict[str, EffectFiles] = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.is_symlink()):
            continue
        _check_link(path, root)
        effect = descriptions.get(_key(path.name))
        if effect is None:
            raise EvaluationError(
                f"'{path.name}' is not an effect of TOP-Bench (Table 3 of the paper). Rename the folder, "
                f'move it away, or describe it in effects.json: {{"{path.name}": {{"instruction": "...", '
                '"scope": "global"}}.'
            )
        if effect.name in effects:
            raise EvaluationError(
                f"Effect '{effect.name}' appears twice, the second time as '{path.name}'. Keep one folder."
            )
        try:
            train, test = _split(path)
            check_images(train + test, side)
        except PairError as error:
            raise EvaluationError(f"Effect '{path.name}': {error}") from error
        effects[effect.name] = EffectFiles(effect.name, effect.scope, effect.words, train, test, side)
    if not effects:
        raise EvaluationError(
            f"Benchmark folder '{root.name}' holds no effects. "
            "It must hold a folder for each effect, such as 'midnight' or 'smile'."
        )
    order = [effect.name for effect in descriptions.values()]
    return tuple(sorted(effects.values(), key=lambda effect: order.index(effect.name)))


def _split(folder: Path) -> tuple[Files, Files]:
    """Training and test files of an effect."""
    train_folder = folder / "train"
    test_folder = folder / "test"
    for parent in (folder, train_folder, test_folder):
        for path in (parent, parent / "before", parent / "after"):
            if path != folder and path.is_symlink():
                _check_link(path, folder)
    if not train_folder.is_dir() and not test_folder.is_dir():
        return _split_by_number(folder)
    for present, missing in ((train_folder, test_folder), (test_folder, train_folder)):
        if not missing.is_dir():
            raise PairError(f"there is a {present.name}/ folder but no {missing.name}/. Add it.")
    loose = find_pairs(folder)
    if loose:
        raise PairError(
            f"there are pairs both in train/ and beside it ('{loose[0][1].name}'). "
            "Keep one of the two layouts."
        )
    train = tuple(find_pairs(train_folder))
    test = tuple(find_pairs(test_folder))
    for kind, pairs, expected in (("training", train, TRAIN_PAIRS), ("test", test, TEST_PAIRS)):
        if len(pairs) != expected:
            raise PairError(
                f"{len(pairs)} {kind} pairs, TOP-Bench has {expected} for every effect. Complete the folder."
            )
    return train, test


def _split_by_number(folder: Path) -> tuple[Files, Files]:
    pairs = tuple(find_pairs(folder))
    if len(pairs) != TRAIN_PAIRS + TEST_PAIRS:
        raise PairError(
            f"{len(pairs)} pairs, TOP-Bench has {TRAIN_PAIRS + TEST_PAIRS} for every effect: "
            "10 for training (0-9) and 5 for testing (10-14). Complete the folder."
        )
    if not (folder / "before").is_dir():
        numbers = {str(number) for number in range(len(pairs))}
        odd = next((name for name, _, _ in pairs if name not in numbers), None)
        if odd is not None:
            raise PairError(
                f"pair '{odd}' has no number from 0 to 14, so it is not clear whether it is for training or "
                "testing. Rename it, or use train/ and test/."
            )
    return pairs[:TRAIN_PAIRS], pairs[TRAIN_PAIRS:]


def _check_link(path: Path, below: Path) -> None:
    """Refuses symbolic links that are broken or lead in a circle."""
    if not path.is_symlink():
        return
    target = os.path.realpath(path)
    parent = os.path.realpath(path.parent)
    if os.path.islink(target) or parent == target or parent.startswith(target + os.sep):
        raise EvaluationError(
            f"'{path.relative_to(below.parent)}' is a link to a folder that contains it. "
            "Put the folder itself there."
        )
    if not path.exists():
        raise EvaluationError(
            f"'{path.relative_to(below.parent)}' is a broken link. Put the folder itself there."
        )


def _own_descriptions(root: Path) -> dict[str, EffectDescription]:
    """Effects of ``effects.json``; none without the file."""
    path = root / "effects.json"
    if not path.is_file():
        return {}
    try:
        effects = [
            EffectDescription(name, str(entry["instruction"]), entry["scope"])
            for name, entry in parse_json(path.read_bytes()).items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            'effects.json must be {"name": {"instruction": "...", "scope": "global" or "local"}} '
            f"({error!r})."
        ) from error
    for effect in effects:
        if effect.name.startswith(".") or set(effect.name) & set("/\\\0"):
            raise EvaluationError(
                f"effects.json: '{effect.name}' is not a folder name. Use the name of the effect's folder."
            )
    for effect in effects:
        if effect.scope not in ("global", "local"):
            raise EvaluationError(
                f"effects.json: the scope of '{effect.name}' is '{effect.scope}'; "
                "it must be 'global' or 'local'."
            )
    return {_key(effect.name): effect for effect in effects}


def _key(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
