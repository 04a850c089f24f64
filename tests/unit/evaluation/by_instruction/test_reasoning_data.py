"""Reading reasoning instructions: both layouts and malformed files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from instructbrush.core.errors import DataError, EvaluationError
from instructbrush.core.evaluation.by_instruction.datasets.reasoning import read_reason
from instructbrush.core.storage.image_tensors import from_image
from instructbrush.tests.support.tiny_benchmarks import (
    KNOWN_WISH,
    REASONING_COUNT,
    pixels,
    png,
    reasoning_rows,
    write_parquet,
    write_reasoning_folder,
    write_shards,
)


def test_both_layouts_give_the_same_items(tmp_path: Path) -> None:
    folder, tables = (
        read_reason(write_reasoning_folder(tmp_path / "folder")),
        read_reason(write_shards(tmp_path / "hub", reasoning_rows(), "test")),
    )
    names = [f"000{number}-{scope}" for number in range(REASONING_COUNT) for scope in ("direct", "reasoning")]
    for found in (folder, tables):
        assert [item.name for item in found.items] == names and [item.scope for item in found.items[:2]] == [
            "direct",
            "reasoning",
        ]
        assert found.remarks == (
            "4 images, each with a direct and a reasoning instruction.",
            "CLIP-T leaves out 1 images without a caption.",
        )
        assert [item.words for item in found.items[:2]] == ["make it night", KNOWN_WISH]
        assert [item.turns[0].caption for item in found.items[::2]] == ["wall 0", None, "wall 2", "wall 3"]
        direct = found.items[4].load().turns[0]
        reasoning = found.items[5].load().turns[0]
        assert torch.equal(direct.source, from_image(pixels("2", 0))) and torch.equal(
            direct.reference, from_image(pixels("2", 1))
        )
        assert torch.equal(direct.source, reasoning.source) and torch.equal(
            direct.reference, reasoning.reference
        )
    bare = [{name: value for name, value in row.items() if name != "caption"} for row in reasoning_rows()]
    found = read_reason(write_parquet(tmp_path / "bare.parquet", bare))
    assert (
        found.remarks[1] == "CLIP-T was not measured: there are no captions."
        and len(found.items) == 2 * REASONING_COUNT
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda listed: listed[1].pop("reasoning"),
            "entry 1: 'reasoning' is missing. An item has a direct instruction (words) and one that only",
        ),
        (lambda listed: listed[0].update(words="  "), "entry 0: 'words' is missing."),
        (lambda listed: listed[2].update(words=["a", "b"]), "entry 2: 'words' is missing."),
        (lambda listed: listed[2].update(caption=3), "entry 2: 'caption' is not a text."),
        (lambda listed: listed[0].pop("before"), "entry 0: 'before' is missing. Name the image's file."),
        (
            lambda listed: listed[1].update(after="../1.png"),
            "entry 1: 'after', '../1.png', is not a file in this folder. Put the images beside reason.json",
        ),
        (
            lambda listed: listed[1].update(after="/etc/passwd"),
            "entry 1: 'after', '/etc/passwd', is not a file in this folder.",
        ),
        (lambda listed: listed[1].update(after="a\0.png"), "is not a file in this folder."),
        (lambda listed: listed[1].update(after="images/9.png"), "Image '9.png' is missing in"),
        (lambda listed: listed[1].update(after="reason.json"), "Image 'reason.json' cannot be read"),
        (
            lambda listed: listed[1].update(after="small.png"),
            "entry 1: before is 64 x 64, after is 32 x 32. Both must have one size: crop or scale them",
        ),
        (lambda listed: listed.append("more"), "'reason.json' must be a list of {\"before\": file"),
        (lambda listed: listed.clear(), "holds no items. Download its files again."),
    ],
)
def test_rejects_malformed_lists(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], message: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    pixels("1", 1).save(tmp_path / "elsewhere" / "1.png")
    folder = write_reasoning_folder(tmp_path / "data", change)
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    pixels("1", 1, 32).save(folder / "small.png")
    with pytest.raises(EvaluationError, match=re.escape(message)):
        read_reason(folder, strict=True)


@pytest.mark.parametrize(
    "change", [{"words": None}, {"reasoning": " "}, {"after": "images/9.png"}, {"before": "reason.json"}]
)
def test_leaves_out_unusable_entries(tmp_path: Path, change: dict[str, Any]) -> None:
    def damage(listed: list[dict[str, Any]]) -> None:
        listed[1].update(change)

    found = read_reason(write_reasoning_folder(tmp_path / "data", damage))
    assert [item.name for item in found.items[::2]] == ["0000-direct", "0002-direct", "0003-direct"] and len(
        found.items
    ) == 6
    assert found.remarks[1].startswith("Left out: ") and found.remarks[2] == "1 image left out."


def test_rows_keep_their_names_when_others_are_left_out(tmp_path: Path) -> None:
    content = reasoning_rows()
    content[0].update(before={"bytes": b"GIF89a??", "path": None})
    content[2].update(words=None)
    found = read_reason(write_parquet(tmp_path / "test.parquet", content))
    assert [item.name for item in found.items] == [
        "0001-direct",
        "0001-reasoning",
        "0003-direct",
        "0003-reasoning",
    ]
    assert found.remarks[3] == "2 images left out."


def test_rejects_malformed_tables_and_missing_files(tmp_path: Path) -> None:
    def table(change: Callable[[list[dict[str, Any]]], Any]) -> Path:
        content = reasoning_rows()
        change(content)
        return write_parquet(tmp_path / "test.parquet", content)

    with pytest.raises(DataError, match="has no column 'reasoning'; its columns are"):
        read_reason(table(lambda content: [row.pop("reasoning") for row in content]))
    with pytest.raises(EvaluationError, match="test.parquet row 1: 'words' is missing."):
        read_reason(table(lambda content: content[1].update(words=None)), strict=True)
    with pytest.raises(DataError, match="row 2 after' is missing: the cell holds no bytes"):
        read_reason(
            table(lambda content: content[2].update(after={"bytes": None, "path": "2.png"})), strict=True
        )
    with pytest.raises(EvaluationError, match="row 0: before is 64 x 64, after is 32 x 32."):
        read_reason(table(lambda content: content[0].update(after=png(pixels("0", 1, 32)))), strict=True)
    with pytest.raises(EvaluationError, match="has no part 'dev': its .parquet files are test.parquet"):
        read_reason(tmp_path, "dev")
    with pytest.raises(
        EvaluationError, match="'.*none' does not exist. Give a folder with reason.json or .parquet files."
    ):
        read_reason(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        EvaluationError,
        match=r"holds neither reason.json nor .parquet files. Write reason.json, a list of \{\"before\":",
    ):
        read_reason(tmp_path / "empty")
    (tmp_path / "empty" / "reason.json").write_text("[{")
    with pytest.raises(EvaluationError, match="'reason.json' cannot be read"):
        read_reason(tmp_path / "empty")
