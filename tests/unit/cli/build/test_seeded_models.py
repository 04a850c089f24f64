"""Builds with seeded models of the public ones' layout, through the command."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from instructbrush.cli.main import main
from instructbrush.core.generation.images import read_cell
from instructbrush.core.generation.scoring import SCORES
from instructbrush.tests.support.text_to_image.tiny_gligen import write_gligen
from instructbrush.tests.support.text_to_image.tiny_models import write_model
from instructbrush.tests.support.tiny_benchmarks import write_dino
from instructbrush.tests.support.tiny_finders import grounding_dino, sam
from instructbrush.tools.build_demo import reason_answers, ultraedit_answers
from instructbrush.tools.build_demo.pocket_rows import pairs, write
from instructbrush.tools.build_demo.scripted_endpoint import Request, ScriptedEndpoint


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grounding_dino(tmp_path_factory.mktemp("grounding-dino"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write(tmp_path / "rows", list(pairs(2, damaged=0)))
    return tmp_path / "rows" / "captions"


def answer(request: Request) -> str:
    seed = int(request.body.get("seed") or 0)
    return ultraedit_answers.answer(request.text, seed) or reason_answers.answer(request.text, seed)


def built(kind: str, source: Path, out: Path, *options: str) -> int:
    with ScriptedEndpoint(answer) as endpoint:
        model = ("--llm", endpoint.address, "--llm-model", "scripted", "--device", "cpu")
        return main(["build", kind, "--source", str(source), "--out", str(out), *model, *options])


def rows_of(printed: str) -> list[dict[str, Any]]:
    facts = json.loads(printed.splitlines()[-1])
    return [row for file in facts["files"] for row in pq.read_table(file).to_pylist()]


def test_ultraedit_with_prompt_to_prompt_grounding_dino_sam_and_dinov2(
    dino: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = [f"--least-{name.replace('_', '-')}" for name in (*SCORES, "region_image")]
    models = {
        "--text-to-image": write_model(tmp_path / "turbo", "sdxl"),
        "--grounding-dino": dino,
        "--sam": sam(tmp_path / "sam"),
        "--dino": write_dino(tmp_path / "dino", "dinov2"),
    }
    options = [text for name, folder in models.items() for text in (name, str(folder))]
    options += [text for name in loose for text in (name, "-1")]
    few = ("--mode", "both", "--side", "64", "--edits", "3", "--seeds", "1", "--steps", "2")
    assert built("ultraedit", source, tmp_path / "out", *options, "--least-change", "0", *few) == 0
    rows = rows_of(capsys.readouterr().out)
    assert {row["data_type"] for row in rows} == {"free-form", "region"}
    for row in rows:
        region = row["data_type"] == "region"
        assert (row["generator"] == "turbo") != region
        assert (row["mask_image"] is not None) == region
        assert -1 <= row["dinov2_sim"] <= 1


def test_reason_with_grounding_dino_and_gligen(
    dino: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gligen = write_gligen(tmp_path / "gligen")
    options = ("--parts", "2", "--grounding-dino", str(dino), "--gligen", str(gligen), "--steps", "2")
    assert built("reason", source, tmp_path / "out", *options, "--box-area", "0", "1") == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows
    for row in rows:
        before, after = (read_cell(row[name], name) for name in ("source_image", "edited_image"))
        left, top, right, bottom = row["box"]
        inside = torch.zeros(before.shape[:2], dtype=torch.bool)
        inside[int(top) : int(-(-bottom // 1)), int(left) : int(-(-right // 1))] = True
        assert torch.equal(before[~inside], after[~inside])
        assert not torch.equal(before[inside], after[inside])


def test_a_build_that_refuses_every_row_leaves_its_report(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert built("ultraedit", source, tmp_path / "out", "--caption-words", "99", "100") == 1
    assert "The report says why" in capsys.readouterr().err
    assert "the caption is too short" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("reason", "--gligen"),
        ("reason", "--captioner"),
        ("ultraedit", "--region-editor"),
        ("ultraedit", "--dino"),
    ],
)
def test_models_that_do_not_exist_are_named_before_anything_is_made(
    kind: str, option: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert built(kind, source, tmp_path / "out", option, "nowhere") == 1
    assert f"{option} names 'nowhere', which does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
