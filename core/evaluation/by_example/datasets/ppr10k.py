"""Reads PPR10K, portraits that three experts retouched (InstructBrush, supplement C and Fig. 9).

The layout is that of the folder ``train_val_images_tif_360p``::

    {train,val}/source/{group}_{photo}.tif                  16 bits a channel
    {train,val}/target_{a,b,c}/{group}_{photo}.tif          8 bits a channel, one folder for each expert

InstructBrush shows tones learned from a few pairs, and does not say from which. Here every expert is an
effect. Photos of one group show the same person and place, so the first photo of each group is taken.
"""

import os
import re
from pathlib import Path

from ....errors import EvaluationError, PairError
from ....pairs.layouts import natural
from ..effects import TEST_PAIRS, TRAIN_PAIRS
from .effect_files import SIDE, EffectFiles, Files, check_images

EXPERTS = ("a", "b", "c")
WORDS = "retouch the photo"
"""PPR10K has no instructions; this one is ours."""
_IMAGES_FOLDER = "train_val_images_tif_360p"
_SUFFIXES = (".tif", ".tiff")


def read_ppr10k(
    folder: str | Path,
    side: int | None = SIDE,
    *,
    train_pairs: int = TRAIN_PAIRS,
    test_pairs: int = TEST_PAIRS,
) -> tuple[EffectFiles, ...]:
    """Reads an effect ``expert a`` .. ``expert c`` for each expert whose folders are there.

    Args:
        folder: holds train/ and val/, or train_val_images_tif_360p/ with them.
        side: as in ``EffectFiles``.
        train_pairs: photos of train/, each of another group.
        test_pairs: photos of val/, each of another group.

    Raises:
        EvaluationError: a folder is missing or has too few groups; a file name is not ``group_photo.tif``; a
            photo is in train/ and val/, or an expert lacks it; an image is empty, damaged or of the wrong
            size.
    """
    root = _root(Path(folder))
    for name, count in (("training", train_pairs), ("test", test_pairs)):
        if count < 1:
            raise EvaluationError(f"PPR10K: {count} {name} pairs are too few; at least 1 is needed.")
    experts = [expert for expert in EXPERTS if (root / "train" / f"target_{expert}").is_dir()]
    if not experts:
        raise EvaluationError(
            "PPR10K: train/ holds no folder target_a, target_b or target_c. Unpack the retouched images of "
            "at least one expert."
        )
    train = _photos(root / "train" / "source")
    test = _photos(root / "val" / "source")
    both = next((name for name in train if name in test), None)
    if both is not None:
        raise EvaluationError(
            f"PPR10K: photo '{both}' is in train/source and val/source, so a method would be tested on what "
            "it learned from. Keep one of the two."
        )
    train, test = _first_of_groups(train, train_pairs, "train"), _first_of_groups(test, test_pairs, "val")
    return tuple(_read_expert(root, expert, train, test, side) for expert in experts)


def _root(folder: Path) -> Path:
    if not folder.is_dir():
        fault = "is a file" if folder.is_file() else "does not exist"
        raise EvaluationError(
            f"Benchmark folder '{folder}' {fault}. Unpack PPR10K's {_IMAGES_FOLDER} and give that folder."
        )
    root = folder / _IMAGES_FOLDER if (folder / _IMAGES_FOLDER).is_dir() else folder
    for path in (root / "train" / "source", root / "val" / "source"):
        if not path.is_dir():
            raise EvaluationError(
                f"Benchmark folder '{root.name}' holds no {path.relative_to(root).as_posix()}/. Give the "
                f"folder {_IMAGES_FOLDER} of PPR10K, which holds train/ and val/ with source/ in each."
            )
    return root


def _photos(folder: Path) -> dict[str, Path]:
    """Photos of a folder: ``group_photo`` -> file, in natural order. Other kinds of files are skipped."""
    photos: dict[str, Path] = {}
    for name in sorted(os.listdir(folder), key=natural):
        path = folder / name
        if name.startswith(".") or path.suffix.lower() not in _SUFFIXES:
            continue
        where = f"{folder.parent.name}/{folder.name}"
        if not re.fullmatch(r"[0-9]+_[0-9]+", path.stem):
            raise EvaluationError(
                f"PPR10K: the name of '{where}/{name[:100]}' is not group_photo.tif, such as 12_3.tif. Give "
                "the images as they are published, without augmented ones."
            )
        if path.stem in photos:
            raise EvaluationError(
                f"PPR10K: '{photos[path.stem].name}' and '{name}' of {where}/ have the same name. Keep one."
            )
        photos[path.stem] = path
    return photos


def _first_of_groups(photos: dict[str, Path], count: int, part: str) -> dict[str, Path]:
    groups: dict[str, str] = {}
    for name in photos:
        groups.setdefault(name.partition("_")[0], name)
    if len(groups) < count:
        found = f"{len(groups)} group{'s' * (len(groups) != 1)}"
        raise EvaluationError(
            f"PPR10K: {part}/source holds photos of {found}, {count} are needed. Complete the folder, or "
            "choose fewer pairs."
        )
    return {name: photos[name] for name in list(groups.values())[:count]}


def _read_expert(
    root: Path, expert: str, train: dict[str, Path], test: dict[str, Path], side: int | None
) -> EffectFiles:
    try:
        parts = [_pairs(root / part, expert, sources) for part, sources in (("train", train), ("val", test))]
        for pairs in parts:
            check_images(pairs, side)
    except PairError as error:
        raise EvaluationError(f"PPR10K, expert {expert}: {error}") from error
    return EffectFiles(f"expert {expert}", "global", WORDS, parts[0], parts[1], side)


def _pairs(part: Path, expert: str, sources: dict[str, Path]) -> Files:
    targets = part / f"target_{expert}"
    where = f"{part.name}/{targets.name}"
    if not targets.is_dir():
        raise PairError(f"{where}/ is missing. Unpack it, or remove the expert's other folder.")
    pairs = []
    for name, source in sources.items():
        target = next((path for suffix in _SUFFIXES if (path := targets / f"{name}{suffix}").is_file()), None)
        if target is None:
            raise PairError(f"'{where}/{name}.tif' is missing. Unpack it, or remove '{name}.tif' of source/.")
        if not source.is_file():
            raise PairError(f"'{part.name}/source/{source.name}' is not a file. Unpack it again.")
        pairs.append((name, source, target))
    return tuple(pairs)
