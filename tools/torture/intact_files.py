"""Writes intact JSON, text, image and table files of every kind, to be damaged, and reads them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from instructbrush.core.encoders.mllm_folders import check_folder, stored_bits, stored_dtype
from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_example.datasets.top_bench import read_top_bench
from instructbrush.core.evaluation.by_example.results import EffectFolder, Outcome
from instructbrush.core.evaluation.by_instruction.results import Score
from instructbrush.core.evaluation.preference.study import Study, StudyItem
from instructbrush.core.reasoning.edit_lists import read_edits
from instructbrush.core.reasoning.edited_objects import parse_objects
from instructbrush.core.reasoning.explain import parse_answer
from instructbrush.core.regions.mask_files import read_mask


def make_image(side: int = 32, mode: str = "RGB") -> Image.Image:
    levels = (
        np.random.default_rng(0)
        .integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
        .repeat(4, 0)
        .repeat(4, 1)
    )
    return Image.fromarray(levels).convert(mode)


def write_pairs(folder: Path) -> Path:
    for side in range(2):
        make_image().save(folder / f"{side}.png")
    entries = [
        {
            "before": "0.png",
            "after": "1.png",
            "name": "first",
            "words": "make it snow",
            "reasoning": ["it is cold"],
        }
    ]
    (folder / "pairs.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder / "pairs.json"


RUN = {"data": "somewhere", "seeds": [0, 1], "text_scale": 7.5, "lpips": None}


def write_run(folder: Path) -> Path:
    EffectFolder(folder).begin(RUN)
    return folder / "run.json"


def write_outcome(folder: Path) -> Path:
    outcome = Outcome("snow", "global", "words", 0, (20.0, 21.0), (0.5, 0.6), None, 0.3, (0.9, 0.8))
    return _write_json(folder / "effects" / "snow" / "words-0.json", asdict(outcome))


def write_score(folder: Path) -> Path:
    score = Score("first", "1 turn", "words", 0, 1, (0.1,), (0.01,), (0.9,), None, (None,), (0.2,))
    return _write_json(folder / "items" / "first" / "words-0.json", asdict(score))


def _write_json(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def write_study(folder: Path) -> Path:
    images = {"a": torch.zeros(16, 16, 3), "b": torch.ones(16, 16, 3)}
    study = Study.begin(folder, [StudyItem(str(number), images, "make it snow") for number in range(2)])
    study.judge(0, "left")
    study.undo()
    study.judge(1, "tie")
    return folder / "study.jsonl"


def read_study(file: Path) -> None:
    study = Study.open(file.parent, images=False)
    _ = study.pending, study.judgements


def write_answer(folder: Path) -> Path:
    answer = (
        '<think>Maybe {"instruction": "make it night"} …</think>'
        '```json\n{"instruction": "add snow", "reason": "it is cold"}\n```'
    )
    (folder / "answer.txt").write_text(answer, encoding="utf-8")
    return folder / "answer.txt"


def write_bare_answer(folder: Path) -> Path:
    return _write_json(folder / "answer.json", {"instruction": "add snow", "reason": "it is cold"})


def read_answer(file: Path) -> None:
    text = file.read_bytes().decode("utf-8", "replace")
    problems = []
    for read in (parse_answer, lambda answer: read_edits(answer, 4, from_model=True), parse_objects):
        try:
            read(text)
        except InstructBrushError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def write_reason(folder: Path) -> Path:
    for side in range(2):
        make_image().save(folder / f"{side}.png")
    return _write_json(
        folder / "reason.json",
        [
            {
                "before": "0.png",
                "after": "1.png",
                "words": "add snow",
                "reasoning": "it is cold",
                "caption": "snow",
            }
        ],
    )


def write_effects(folder: Path) -> Path:
    return _write_json(folder / "effects.json", {"glow": {"instruction": "make it glow", "scope": "global"}})


def read_effects(file: Path) -> None:
    # The folder has no effects besides their list, so an intact list is refused too, after it was read.
    with contextlib.suppress(InstructBrushError):
        read_top_bench(file.parent)


def write_prompt(folder: Path) -> Path:
    """Writes a direction of InstructPix2Pix's data set; returns its prompt.json."""
    direction = folder / "0000001"
    direction.mkdir()
    for pair in range(2):
        for side in range(2):
            make_image().save(direction / f"{pair}_{side}.png")
    (direction / "metadata.jsonl").write_text('{"seed": 0}\n{"seed": 1}\n')
    return _write_json(direction / "prompt.json", {"input": "a lake", "edit": "add snow", "output": "snow"})


def write_metadata(folder: Path) -> Path:
    return write_prompt(folder).with_name("metadata.jsonl")


def write_seeds(folder: Path) -> Path:
    write_prompt(folder)
    return _write_json(folder / "seeds.json", [["0000001", ["0", "1"]]])


def _cell() -> dict[str, Any]:
    content = io.BytesIO()
    make_image().save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def write_table(rows: list[dict[str, Any]], name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
        return folder / name

    return write


EMU_EDIT_ROW = {
    "instruction": "add snow",
    "image": _cell(),
    "task": "add",
    "split": "test",
    "idx": 0,
    "hash": "a1",
    "input_caption": "a",
    "output_caption": "b",
}


REASONING_ROW = {"before": _cell(), "after": _cell(), "words": "add snow", "reasoning": "it is cold"}


def write_image(kind: str, mode: str = "RGB", **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        image = (
            Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64)
            if mode == "I;16"
            else make_image(mode=mode)
        )
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(
            folder / "x.png", kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}), **options
        )
        return folder / "x.png"

    return write


def read_mask_file(file: Path) -> None:
    read_mask(io.BytesIO(file.read_bytes()), file.name)


def linked_folder(source: Path, name: str) -> Callable[[Path], Path]:
    """Returns a writer of a folder with links to the files of ``source``, and a copy of the one ``name``."""

    def write(folder: Path) -> Path:
        for file in source.iterdir():
            if file.name == name:
                (folder / name).write_bytes(file.read_bytes())
            else:
                (folder / file.name).symlink_to(file)
        return folder / name

    return write


def read_mllm_folder(file: Path) -> None:
    check_folder(file.parent)
    stored_bits(file.parent)
    stored_dtype(file.parent)


def write_reference(folder: Path) -> Path:
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    return folder / "refs" / "main"
