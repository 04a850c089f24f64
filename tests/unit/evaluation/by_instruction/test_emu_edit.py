"""Emu Edit Test: reading files, placeholder captions, malformed files, metrics."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import DataError, EvaluationError
from instructbrush.core.evaluation.by_instruction.datasets.emu_edit import read_emu_edit
from instructbrush.core.evaluation.by_instruction.results import ItemFolder, Score
from instructbrush.core.evaluation.by_instruction.run import ItemRunSettings
from instructbrush.core.evaluation.by_instruction.tables import EMU_EDIT, method_figures, text_table
from instructbrush.core.evaluation.runner import run
from instructbrush.core.storage.image_tensors import from_image
from instructbrush.tests.support.tiny_benchmarks import emu_rows, pixels, write_parquet, write_shards

pytestmark = pytest.mark.slow  # edits or trains for real

REMARK = (
    "2 rows have a placeholder or an empty caption, 1 have the same caption before and after: "
    "CLIP-dir and CLIP-out are measured on the other rows only."
)


def test_reads_rows_of_a_split_and_their_captions(tmp_path: Path) -> None:
    found = read_emu_edit(write_shards(tmp_path / "hub", emu_rows(), "test"))
    assert [item.name for item in found.items] == [f"{index:02}ab" for index in range(7)]
    assert [item.scope for item in found.items[:3]] == ["local", "style", "remove"]
    assert found.remarks == ("7 rows of split 'test'.", REMARK)
    captioned = [item.turns[0].caption is not None for item in found.items]
    assert captioned == [True, True, False, False, False, True, True]
    assert captioned == [item.turns[0].caption_before is not None for item in found.items]
    assert pickle.loads(pickle.dumps(found.items[3])) == found.items[3]  # noqa: S301 - our own bytes
    (turn,) = found.items[5].load().turns
    assert (turn.words, turn.caption_before, turn.caption) == (
        "do thing 5",
        "a green wall",
        "a drawing of a green wall",
    )
    assert (
        torch.equal(turn.source, from_image(pixels("5", 2)))
        and turn.truth is None
        and turn.mask is None
        and turn.reference is turn.source
    )


def test_reads_other_split_and_file_without_faults(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "both.parquet", emu_rows())
    found = read_emu_edit(file, "validation")
    assert [item.name for item in found.items] == ["other"] and found.remarks == (
        "1 rows of split 'validation'.",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [row.pop("output_caption") for row in rows],
            "has no column 'output_caption'; its columns are instruction, image",
        ),
        (lambda rows: [row.pop("image") for row in rows], "has no column 'image'"),
        (
            lambda rows: rows[2].update(hash="00ab"),
            "row 2: hash '00ab' appears twice. Give the files of one download only.",
        ),
        (
            lambda rows: rows[1].update(hash="../up"),
            "row 1: hash '../up' is not a plain name of letters and digits.",
        ),
        (lambda rows: rows[4].update(instruction=None), "row 4: the instruction is empty."),
        (
            lambda rows: rows[6].update(image={"bytes": b"", "path": "x.png"}),
            "row 6 image' is missing: the cell holds no bytes",
        ),
        (
            lambda rows: rows[6].update(image={"bytes": b"GIF89a??", "path": None}),
            "Image 'test.parquet row 6 image' cannot be read",
        ),
        (
            lambda rows: [row.update(split="train") for row in rows],
            "has no rows of split 'test': its rows are of train. Give another --split",
        ),
    ],
)
def test_rejects_malformed_tables(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], message: str
) -> None:
    rows = emu_rows()
    change(rows)
    file = write_parquet(tmp_path / "test.parquet", rows)
    with pytest.raises((DataError, EvaluationError), match=re.escape(message)):
        read_emu_edit(file, strict=True)


@pytest.mark.parametrize(
    "change", [{"hash": "../up"}, {"instruction": None}, {"image": {"bytes": b"", "path": "x.png"}}]
)
def test_leaves_out_unusable_rows(tmp_path: Path, change: dict[str, Any]) -> None:
    rows = emu_rows()
    sound = [item.name for item in read_emu_edit(write_parquet(tmp_path / "test.parquet", rows)).items]
    gone = rows[1]["hash"]
    rows[1].update(change)
    found = read_emu_edit(write_parquet(tmp_path / "test.parquet", rows))
    assert [item.name for item in found.items] == [name for name in sound if name != gone]
    assert (
        found.remarks[1].startswith("Left out: ")
        and "test.parquet row 1" in found.remarks[1]
        and found.remarks[2] == "1 row left out."
    )
    for row in rows:
        row.update(change)
    with pytest.raises((DataError, EvaluationError), match="test.parquet row 0"):
        read_emu_edit(write_parquet(tmp_path / "test.parquet", rows))


def test_rejects_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(
        EvaluationError, match="does not exist. Download the data set's parquet files and give their folder."
    ):
        read_emu_edit(tmp_path / "none")
    for content in (b"", b"PAR1" + bytes(100)):
        (tmp_path / "test.parquet").write_bytes(content)
        with pytest.raises(DataError, match="'test.parquet' cannot be read as parquet"):
            read_emu_edit(tmp_path)


def test_figures_match_formulas(tmp_path: Path) -> None:
    sources = read_emu_edit(write_parquet(tmp_path / "test.parquet", emu_rows())).items[1:3]
    folder = ItemFolder(tmp_path / "out")
    captioned, bare = run(
        sources, ItemRunSettings(sampling=SamplingSettings(2), side=64), folder, data="test"
    )
    clip = pocket_clip()

    def unit(features: torch.Tensor) -> np.ndarray:
        values = features[0].double().numpy()
        return values / np.sqrt((values**2).sum())

    with Image.open(folder.image("01ab", "words", 0, 0)) as opened:
        made = from_image(opened)
    source = from_image(pixels("1", 1))
    assert captioned.l1[0] == pytest.approx(
        np.abs(made.double().numpy() - source.double().numpy()).mean(), abs=1e-6
    )
    before = unit(clip.encode_texts(["a wall"]))
    after = unit(clip.encode_texts(["a wall in the snow"]))
    first = unit(clip.encode_images(source[None]))
    last = unit(clip.encode_images(made[None]))
    assert captioned.clip_i[0] == pytest.approx(first @ last, abs=1e-5)
    assert captioned.clip_t[0] == pytest.approx(after @ last, abs=1e-5)
    moved, said = last - first, after - before
    assert captioned.clip_dir[0] == pytest.approx(
        moved @ said / np.linalg.norm(moved) / np.linalg.norm(said), abs=1e-4
    )
    assert bare.clip_t == bare.clip_dir == (None,) and bare.scope == "remove" and 0 < bare.l1[0] < 1


def score(item: str, l1: float, words: float | None) -> Score:
    return Score(item, "local", "words", 0, 1, (l1,), (l1,), (0.9,), (0.8,), (words,), (words,))


def test_rows_without_captions_count_only_in_all_rows() -> None:
    scores = [score("a", 0.1, 0.2), score("b", 0.2, 0.4), score("c", 0.6, None)]
    sound = method_figures(scores, EMU_EDIT, "words", "captioned")
    every = method_figures(scores, EMU_EDIT, "words", "all")
    assert (
        sound is not None
        and sound["l1"].mean == pytest.approx(0.15)
        and sound["clip_dir"].mean == pytest.approx(0.3)
    )
    assert (
        every is not None
        and every["l1"].mean == pytest.approx(0.3)
        and every["clip_dir"].mean == pytest.approx(0.3)
    )
    lines = text_table(scores, EMU_EDIT).splitlines()
    assert lines[2].split()[:12] == "Datasets Method CLIPdir ↑ CLIPout ↑ L1 ↓ CLIPim ↑ DINO ↑".split()
    assert lines[3].split() == "Sound captions IP2P 0.3000 0.3000 0.1500 0.9000 0.8000 | - - - - -".split()
    assert (
        lines[4].split()
        == "All rows IP2P 0.3000 0.3000 0.3000 0.9000 0.8000 | 0.078 0.219 0.121 0.834 0.762".split()
    )
    assert method_figures(scores[2:], EMU_EDIT, "words", "captioned") is None


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_shards(tmp_path / "hub", emu_rows(), "test"), tmp_path / "out"
    options = [
        "--sampling-steps",
        "1",
        "--size",
        "64",
        "--device",
        "cpu",
        "--out",
        str(out),
        "--effects",
        "00ab",
        "02ab",
    ]
    assert main(["bench", "--benchmark", "emu-edit", "--data", str(data), *options]) == 0
    printed = capsys.readouterr().out
    assert "[2/2] 02ab words: L1 0." in printed and "Sound captions" in printed and REMARK in printed
    page = (out / "report.html").read_text("utf-8")
    assert (
        page.count("<img") == 4
        and "truth" not in page.split("<h3>")[1]
        and "UltraEdit measures only the rows with sound captions" in page
    )
    assert (out / "results.csv").read_text().splitlines()[
        0
    ] == "item,scope,method,seed,picture,clip_dir,clip_t,l1,clip_i,dino,seconds"
    assert main(["bench", "--benchmark", "emu-edit", "--data", str(data), "--captions", "x"]) == 1
    assert "--captions does nothing with --benchmark emu-edit." in capsys.readouterr().err
