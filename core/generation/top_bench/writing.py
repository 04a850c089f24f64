"""Writes finished pairs as a benchmark, which methods learn from and are tested on."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import BuildError
from ...evaluation.by_example.datasets.top_bench import read_top_bench
from ...evaluation.by_example.effects import TEST_PAIRS, TRAIN_PAIRS
from ...storage.files import atomic_write, is_ignored, replaced_folder, write_text
from ..engine.build import Build
from ..engine.stage import ID, Row
from ..scoring import CLIP_DIRECTION

_NEEDED = TRAIN_PAIRS + TEST_PAIRS
_CAPTIONS = ("source_caption", "target_caption")
_IMAGES = ("source_image", "edited_image")
_DESCRIPTIONS = "effects.json"


@dataclass(frozen=True)
class WrittenBenchmark:
    """What was written."""

    folder: Path
    effects: tuple[str, ...]
    left_out: Mapping[str, int]
    """Effect -> its pairs that are left, for effects that have fewer than 15."""


def write_top_bench(build: Build, folder: Path) -> WrittenBenchmark:
    """Writes the effects of a finished build, and opens the result with the benchmark's own reader.

    The layout is ``{effect}/{train,test}/{i}_{0,1}.png`` with ``effects.json``, and ``captions.json`` with
    the captions, scores and seeds. The 15 pairs with the highest CLIP direction are kept and shuffled, the
    same way each time, so that training and test pairs are equally good. A benchmark that an earlier call
    wrote is replaced.

    Args:
        build: a build of ``top_bench_stages``.
        folder: gets the benchmark. It must be new or hold an earlier one.

    Raises:
        BuildError: the build is not finished, no effect has 15 pairs, or the folder holds something else.
        EvaluationError: the benchmark's reader refuses the result.
        StorageError: a file cannot be written.
    """
    last = len(build.stages)
    if build.unfinished_parts(last):
        raise BuildError("TOP-Bench: the build is not finished. Run the same command again.")
    chosen, left_out = _choose(_scored_rows(build))
    if not chosen:
        counts = ", ".join(f"'{name}' {count}" for name, count in left_out.items()) or "none"
        raise BuildError(
            f"TOP-Bench: no effect has the {_NEEDED} pairs that it needs; left are: {counts}. Add captions "
            "or candidates, or lower the thresholds. The report says what was refused."
        )
    _check_replaceable(folder)
    with replaced_folder(folder) as unfinished:
        _write_effects(build, chosen, unfinished)
        effects = read_top_bench(unfinished, side=None)
    return WrittenBenchmark(folder, tuple(effect.name for effect in effects), left_out)


def _write_effects(build: Build, effects: Mapping[str, Sequence[Row]], folder: Path) -> None:
    captions: dict[str, dict[str, list[Mapping[str, object]]]] = {}
    described: dict[str, dict[str, str]] = {}
    for name, rows in effects.items():
        described[name] = {"instruction": rows[0]["edit_prompt"], "scope": rows[0]["scope"]}
        captions[name] = {}
        for split, part in (("train", rows[:TRAIN_PAIRS]), ("test", rows[TRAIN_PAIRS:])):
            captions[name][split] = [_facts(row) for row in part]
            _write_pairs(build, part, folder / name / split)
    write_text(json.dumps(described, indent=1), folder / _DESCRIPTIONS)
    write_text(json.dumps(captions, indent=1), folder / "captions.json")


def _scored_rows(build: Build) -> list[Row]:
    """All rows without their images, with the place of each."""
    last = len(build.stages)
    columns = ("effect", "edit_prompt", "scope", *_CAPTIONS, "seed", CLIP_DIRECTION)
    return [{**row, "part": part} for part in range(build.parts) for row in build.rows(last, part, columns)]


def _choose(rows: Sequence[Row]) -> tuple[dict[str, list[Row]], dict[str, int]]:
    effects: dict[str, list[Row]] = {}
    for row in rows:
        effects.setdefault(row["effect"], []).append(row)
    left_out = {name: len(each) for name, each in effects.items() if len(each) < _NEEDED}
    chosen = {}
    for name, each in effects.items():
        if name not in left_out:
            best = sorted(each, key=lambda row: (-(row[CLIP_DIRECTION] or 0.0), row[ID]))[:_NEEDED]
            random.Random(name).shuffle(best)
            chosen[name] = best
    return chosen, left_out


def _facts(row: Row) -> Mapping[str, object]:
    return {name: row[name] for name in (ID, *_CAPTIONS, CLIP_DIRECTION, "seed")}


def _write_pairs(build: Build, rows: Sequence[Row], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    places = {row[ID]: number for number, row in enumerate(rows)}
    for part in sorted({row["part"] for row in rows}):
        for row in build.rows(len(build.stages), part, _IMAGES):
            if row[ID] not in places:
                continue
            for side, column in enumerate(_IMAGES):
                with atomic_write(folder / f"{places[row[ID]]}_{side}.png") as temporary:
                    temporary.write_bytes(row[column]["bytes"])


def _check_replaceable(folder: Path) -> None:
    taken = folder.is_dir() and not all(map(is_ignored, folder.iterdir()))
    if taken and not (folder / _DESCRIPTIONS).is_file():
        raise BuildError(f"TOP-Bench: '{folder}' holds other files, not a benchmark. Give another folder.")
