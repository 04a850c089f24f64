"""Public layouts of edits and the tables of builds, as each trainer and Learn Instruction load them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import Tensor

from instructbrush.core.finetuning.dataset import find_blocks, first_usable_records
from instructbrush.core.finetuning.reasoning.text_selection import TextSelection
from instructbrush.core.finetuning.stream import EditStream
from instructbrush.core.pairs.pairs import load_pairs
from instructbrush.tests.support import tiny_edits

COUNT = 3


def built(folder: Path) -> Path:
    """A table as a build writes it: UltraEdit's columns and others, and indirect instructions."""
    rows = [
        {
            "id": f"a.{number}",
            **row,
            "edit_type": "change_color",
            "edit_objects": ["blocks", "NONE"],
            "clip_similarity": 0.9,
            "reasoning": list(tiny_edits.INDIRECT[number % 3]),
        }
        for number, row in enumerate(tiny_edits.rows(COUNT))
    ]
    tiny_edits.write_table(folder / "data" / "train-00000-of-00001.parquet", rows)
    return folder


def table(*names: str) -> Callable[[Path], Path]:
    """A table with other names of before, after, words and both captions."""
    usual = ("source_image", "edited_image", "edit_prompt", "source_caption", "target_caption")

    def write(folder: Path) -> Path:
        rows = [
            {name: row[column] for name, column in zip(names, usual, strict=True)}
            for row in tiny_edits.rows(COUNT)
        ]
        return tiny_edits.write_table(folder / "t.parquet", rows)

    return write


def tree(folder: Path) -> Path:
    """InstructPix2Pix's tree."""
    for number in range(COUNT):
        home = folder / f"{number:07}"
        home.mkdir(parents=True)
        before, after, _ = tiny_edits.images(number)
        # PNG in files that are called JPEG, so that nothing is lost.
        before.save(home / "77_0.jpg", "PNG")
        after.save(home / "77_1.jpg", "PNG")
        words = {"input": "blocks", "edit": f"invert part {number}", "output": "other blocks"}
        (home / "prompt.json").write_text(json.dumps(words))
        (home / "metadata.jsonl").write_text(json.dumps({"seed": 77, "p2p_threshold": 0.3}))
    (folder / "seeds.json").write_text(json.dumps([[f"{number:07}", ["77"]] for number in range(COUNT)]))
    return folder


def image_folder(kind: str) -> Callable[[Path], Path]:
    """Hugging Face's imagefolder, with the list in ``train/``."""

    def write(folder: Path) -> Path:
        tiny_edits.write_folder(folder / "train", COUNT)
        entries = json.loads((folder / "train" / "pairs.json").read_text())
        (folder / "train" / "pairs.json").unlink()
        lines = [("original_image_file_name", "edited_image_file_name", "edit_prompt")]
        lines += [(entry["before"], entry["after"], entry["words"]) for entry in entries]
        if kind == "csv":
            text = "\n".join(map(",".join, lines))
        else:
            text = "\n".join(json.dumps(dict(zip(lines[0], line, strict=True))) for line in lines[1:])
        (folder / "train" / f"metadata.{kind}").write_text(text)
        return folder

    return write


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "build": built,
    "ultraedit": table("source_image", "edited_image", "edit_prompt", "source_caption", "target_caption"),
    "ip2p table": table("original_image", "edited_image", "edit_prompt", "original_prompt", "edited_prompt"),
    "input image": table("input_image", "edited_image", "instruction", "input", "output"),
    "ip2p tree": tree,
    "jsonl": image_folder("jsonl"),
    "csv": image_folder("csv"),
}
MASKED = {"build"}


def pixels(number: int, part: int) -> Tensor:
    image = tiny_edits.images(number)[part].convert("RGB")
    return torch.from_numpy(np.asarray(image, np.float32) / 255)


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def place(layout: str, tmp_path: Path) -> Path:
    return LAYOUTS[layout](tmp_path / "data")


def test_finetune_and_train_region_load_them(place: Path, layout: str) -> None:
    blocks = find_blocks([place], strict=True)
    for number, pair in enumerate(record.read() for record in first_usable_records(blocks, COUNT)):
        assert torch.equal(pair.before, pixels(number, 0)) and torch.equal(pair.after, pixels(number, 1))
        assert pair.words == f"invert part {number}"
        mask = pixels(number, 2)[..., 0] if layout in MASKED and number < 2 else torch.ones(64, 64)
        assert torch.equal(pair.mask, mask)
    stream = EditStream(blocks, 32, white_share=0)
    samples = [stream.sample(index, stream.record(index)) for index in range(COUNT)]
    assert sorted(sample.words for sample in samples) == [f"invert part {number}" for number in range(COUNT)]
    assert all(sample.before.shape == (32, 32, 3) for sample in samples) and not stream.skipped


def test_reason_train_loads_them(place: Path, layout: str) -> None:
    found = list(TextSelection(0.5).pairs(find_blocks([place], strict=True)))
    indirect: Any = tiny_edits.INDIRECT if layout == "build" else [()] * COUNT
    assert [texts for _, texts in found] == [
        (f"invert part {number}", *indirect[number]) for number in range(COUNT)
    ]
    assert TextSelection(0).draw(found[1].record, default_rng(0)) == "invert part 1"


def test_learn_instruction_loads_them(place: Path, layout: str) -> None:
    pairs = load_pairs(place, strict=True)
    assert len(pairs) == COUNT
    for number, pair in enumerate(pairs):
        assert torch.equal(pair.before, pixels(number, 0)) and torch.equal(pair.after, pixels(number, 1))
        assert (pair.mask is not None) == (layout in MASKED and number < 2)
