"""Reads Clean-InstructPix2Pix, the data set that Visii evaluates on (sections 4 and 5).

It is the CLIP-filtered data set of InstructPix2Pix, in the layout of its authors::

    {direction}/prompt.json          {"input": caption before, "edit": words, "output": caption after}
    {direction}/{seed}_0.jpg         before
    {direction}/{seed}_1.jpg         after
    {direction}/metadata.jsonl       {"seed": seed, ...} for every pair; optional
    seeds.json                       [[direction, [seed, ...]], ...]; optional, saves the search for folders

An editing direction is one prompt; it has 1 to 4 pairs. Folders of directions may lie in further folders.
"""

import hashlib
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ....errors import EvaluationError, PairError
from ....pairs.layouts import PROMPT, folders_below, natural
from ....pairs.pairs import find_pairs
from ....storage.image_files import IMAGES
from ....storage.json_text import parse_json
from ....storage.names import resolve_inside
from ..effects import Captions
from .effect_files import SIDE, EffectFiles, Files, check_images

DIRECTIONS = 100
"""Editing directions of Visii's Table 1."""
HELD_OUT = 1
_SEEDS = "seeds.json"
_METADATA = "metadata.jsonl"
# Python refuses to read numbers of more than 4300 digits, which sorting by number does.
_LONGEST_NAME = 1000
# Bytes of an effect's name: names of result files add a method, a seed and an ending.
_LONGEST_EFFECT = 180


def read_clean_ip2p(
    folder: str | Path,
    side: int | None = SIDE,
    *,
    directions: int | None = DIRECTIONS,
    held_out: int = HELD_OUT,
    least: int = 1,
    seed: int = 0,
) -> tuple[EffectFiles, ...]:
    """Draws editing directions, and opens all their images. Each becomes an effect of scope ``global``.

    The pairs of a direction are sorted by their seed, so their order says nothing about their quality. The
    last ``held_out`` pairs are for testing, the others for training.

    Args:
        folder: holds the folders of directions.
        side: as in ``EffectFiles``.
        directions: how many are drawn; None takes all. If there are fewer, all are taken.
        held_out: test pairs of each direction. 0 tests on the training pairs: Table 1 of the paper learns
            from up to four pairs of directions that have four on average, which leaves none.
        least: training pairs that each direction needs. Directions with fewer are not drawn.
        seed: of the drawing.

    Raises:
        EvaluationError: the folder is missing, or has no direction with enough pairs; seeds.json, a
            prompt.json or a metadata.jsonl is malformed; an image is missing, empty, damaged or of the wrong
            size.
    """
    root = Path(folder)
    if not root.is_dir():
        fault = "is a file" if root.is_file() else "does not exist"
        raise EvaluationError(
            f"Benchmark folder '{folder}' {fault}. Unpack InstructPix2Pix's data set and give the folder "
            "that holds seeds.json or the folders with prompt.json."
        )
    lowest = {"directions": (directions, 1), "held_out": (held_out, 0), "least": (least, 1)}
    for name, (value, low) in lowest.items():
        if value is not None and value < low:
            raise EvaluationError(f"Clean-InstructPix2Pix: {name} is {value}; it must be at least {low}.")
    listed = _listed(root) if (root / _SEEDS).is_file() else _found(root)
    if not listed:
        raise EvaluationError(
            f"Benchmark folder '{root.name}' holds no folder with {PROMPT} and pairs such as 123_0.jpg and "
            "123_1.jpg. Give the folder of InstructPix2Pix's data set."
        )
    needed = least + held_out
    names = sorted((name for name, seeds in listed.items() if len(seeds) >= needed), key=natural)
    if not names:
        raise EvaluationError(
            f"No editing direction of '{root.name}' has {needed} pairs ({least} for training, {held_out} for "
            "testing). Choose methods that learn from fewer pairs, or hold out fewer."
        )
    if directions is not None and len(names) > directions:
        names = sorted(random.Random(seed).sample(names, directions), key=natural)
    effects = _effect_names(listed)
    return tuple(_read_direction(root, name, effects[name], listed[name], side, held_out) for name in names)


def _effect_names(directions: Iterable[str]) -> dict[str, str]:
    """Directions -> names of their effects, which are unique and short enough for names of files.

    A name depends on the data set alone, and not on which directions are drawn.
    """
    plain = {name: name.replace("/", "-") for name in directions}
    # Windows ignores case in names.
    counts = Counter(name.casefold() for name in plain.values())
    effects = {}
    for name, effect in plain.items():
        if counts[effect.casefold()] > 1 or len(os.fsencode(effect)) > _LONGEST_EFFECT:
            digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
            start = os.fsencode(effect)[: _LONGEST_EFFECT - len(digest) - 1].decode("utf-8", "ignore")
            effect = f"{start}-{digest}"
        effects[name] = effect
    return effects


def _listed(root: Path) -> dict[str, tuple[str, ...]]:
    """Directions of seeds.json -> their seeds."""
    try:
        entries = parse_json((root / _SEEDS).read_bytes())
        listed: dict[str, tuple[str, ...]] = {}
        for name, seeds in entries:
            if not isinstance(name, str) or len(name) > _LONGEST_NAME or not isinstance(seeds, list):
                raise ValueError(f"{str([name, seeds])[:60]} is not a folder with seeds")
            if name in listed:
                raise ValueError(f"'{name[:60]}' appears twice")
            listed[name] = tuple(_seed_text(seed) for seed in seeds)
            if len(set(listed[name])) < len(seeds):
                raise ValueError(f"a seed of '{name[:60]}' appears twice")
    except (OSError, ValueError, TypeError) as error:
        raise EvaluationError(
            f'{_SEEDS} of \'{root.name}\' must be [["folder", ["seed", ...]], ...] ({error}). Repair it, or '
            "remove it: then the folders are searched."
        ) from error
    return listed


def _seed_text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.isdecimal() and len(value) <= _LONGEST_NAME:
        return value
    raise ValueError(f"{str(value)[:60]!r} is not a seed")


def _found(root: Path) -> dict[str, tuple[str, ...]]:
    """Directions below a folder -> their seeds. Reads no file."""
    found = {}
    for path in folders_below(root):
        names = os.listdir(path)
        if PROMPT in names:
            images = (Path(name) for name in names if Path(name).suffix.lower() in IMAGES)
            seeds = {image.stem[:-2] for image in images if image.stem.endswith("_0")}
            found[path.relative_to(root).as_posix()] = tuple(sorted(seeds, key=natural))
    return found


def _read_direction(
    root: Path, name: str, effect: str, seeds: tuple[str, ...], side: int | None, held_out: int
) -> EffectFiles:
    try:
        folder = resolve_inside(root, name, error=PairError)
        if not (folder / PROMPT).is_file():
            raise PairError(f"{PROMPT} is missing. Unpack the folder again, or remove it from {_SEEDS}.")
        words, captions = _read_prompt(folder / PROMPT)
        pairs = _pairs(folder, seeds)
        check_images(pairs, side)
    except PairError as error:
        raise EvaluationError(f"Editing direction '{name[:100]}': {error}") from error
    train = pairs[: len(pairs) - held_out]
    test = pairs[len(pairs) - held_out :] if held_out else pairs
    return EffectFiles(effect, "global", words, train, test, side, (captions,) * len(test))


def _read_prompt(file: Path) -> tuple[str, Captions]:
    try:
        prompt = parse_json(file.read_bytes(), finite=False)
        if not isinstance(prompt, dict):
            raise ValueError("it is not a table")
        texts = []
        for key in ("edit", "input", "output"):
            text = prompt.get(key)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"'{key}' is missing or empty")
            texts.append(text.strip())
    except (OSError, ValueError) as error:
        raise PairError(
            f'{PROMPT} must be {{"input": "...", "edit": "...", "output": "..."}} ({error}). Repair it, or '
            "remove the folder."
        ) from error
    return texts[0], (texts[1], texts[2])


def _pairs(folder: Path, seeds: tuple[str, ...]) -> Files:
    """The pairs of the seeds, sorted by seed. All that the lists name must be there."""
    present: Mapping[str, tuple[str, Path, Path]] = {pair[0]: pair for pair in find_pairs(folder)}
    for source, listed in ((_SEEDS, seeds), (_METADATA, _metadata_seeds(folder / _METADATA))):
        missing = next((seed for seed in listed if seed not in present), None)
        if missing is not None:
            raise PairError(
                f"{source} lists the seed {missing}, but '{missing}_0.jpg' and '{missing}_1.jpg' are not "
                "there. Unpack the folder again, or remove the seed from the list."
            )
    return tuple(present[seed] for seed in sorted(seeds, key=natural))


def _metadata_seeds(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        return ()
    try:
        lines = file.read_text("utf-8").splitlines()
        entries = [parse_json(line, finite=False) for line in lines if line.strip()]
        return tuple(_seed_text(entry["seed"]) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PairError(
            f'Each line of {_METADATA} must be {{"seed": 123, ...}} ({error!r}). Repair it, or remove it.'
        ) from error
