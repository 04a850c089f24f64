"""The whole chain on the pocket world with the built-in models."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from instructbrush.core.errors import BuildError
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.figures import count_rows, plan
from instructbrush.core.generation.engine.stage import fingerprint
from instructbrush.core.generation.finders import FinderModels
from instructbrush.core.generation.images import read_cell
from instructbrush.core.generation.prompt_to_prompt.candidates import CaptionPairs
from instructbrush.core.generation.reason.models.captioners import FolderCaptioner
from instructbrush.core.generation.reason.models.gligen import GligenSpec
from instructbrush.core.generation.reason.models.region_editor import RegionEditorSpec
from instructbrush.core.generation.scoring import ScoringModels
from instructbrush.core.generation.ultraedit.pairs import EditedAnchors, PromptToPromptPairs
from instructbrush.core.generation.ultraedit.stages import (
    ULTRAEDIT_COLUMNS,
    UltraEditSettings,
    ultraedit_stages,
)
from instructbrush.tests.unit.generation.ultraedit.scripted import Scenes, Scripted

PUBLIC = (
    *("clip_sim_source", "clip_sim_target", "clip_sim_dir", "clip_sim_image", "dinov2_sim", "ssim"),
    *("source_caption", "target_caption", "idx", "edit_prompt", "edit_object"),
    *("source_image", "edited_image", "mask_image"),
)


def rows_of(build: Build) -> list[dict]:
    return [
        row
        for file in sorted((build.folder / "data").glob("*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]


def test_each_caption_branches_into_three_edits_and_each_edit_into_both_kinds(built: Build) -> None:
    counts = {count.name: count for count in count_rows(built)}
    assert (counts["captions"].out, counts["instructions"].out, counts["types"].out) == (2, 6, 12)
    assert counts["pairs"].out >= 3
    assert {row["data_type"] for row in rows_of(built)} == {"free-form", "region"}


def test_tables_have_the_public_columns(built: Build) -> None:
    rows = rows_of(built)
    assert tuple(rows[0])[: len(PUBLIC)] == PUBLIC == tuple(ULTRAEDIT_COLUMNS)[: len(PUBLIC)]
    assert len({row["idx"] for row in rows}) == len(rows)


def test_rows_fit_together(built: Build, settings: UltraEditSettings) -> None:
    for row in rows_of(built):
        source, target = (read_cell(row[name], name) for name in ("source_image", "edited_image"))
        assert source.shape == target.shape == (128, 128, 3)
        assert (source - target).square().mean().sqrt() >= 0.01
        assert settings.thresholds.problem(row) is None
        assert row["target_caption"] != row["source_caption"]
        if row["data_type"] == "free-form":
            assert row["mask_image"] is row["edit_object"] is row["mask_softness"] is None
        else:
            assert row["edit_object"]
            assert 0.2 <= row["mask_softness"] <= 0.8


def test_region_edits_stay_in_their_mask(built: Build) -> None:
    regions = [row for row in rows_of(built) if row["data_type"] == "region"]
    assert regions
    for row in regions:
        source, target = (read_cell(row[name], name) for name in ("source_image", "edited_image"))
        mask = read_cell(row["mask_image"], "mask")[..., 0]
        near = torch.nn.functional.max_pool2d(mask[None], 33, 1, 16)[0] > 0
        inside = (source - target).abs().mean(-1)[mask > 0.99].mean()
        # Outside, only the VAE changes the image.
        assert (source - target).abs().mean(-1)[~near].mean() < min(0.03, float(inside))


def test_trainers_read_the_table(built: Build) -> None:
    records = [record for block in find_blocks([built.folder / "data"]) for record in block.records()]
    rows = rows_of(built)
    assert [record.words for record in records] == [row["edit_prompt"] for row in rows]
    for record, row in zip(records, rows, strict=True):
        pair = record.read()
        assert pair.before.shape == (128, 128, 3)
        assert bool((pair.mask == 1).all()) == (row["data_type"] == "free-form")


def test_stages_are_the_same_in_other_processes(settings: UltraEditSettings) -> None:
    for stage in ultraedit_stages(settings):
        assert repr(pickle.loads(pickle.dumps(stage.start))) == repr(stage.start)  # noqa: S301


@pytest.mark.parametrize(("mode", "calls"), [("free-form", 10), ("region", 39), ("both", 39)])
def test_plans_rows_and_calls(mode: Any, calls: int, tmp_path: Path) -> None:
    stages = ultraedit_stages(UltraEditSettings(Scripted(), mode=mode, side=128))
    plans = plan(Build(tmp_path / "build", Scenes(10), stages))
    assert sum(each.calls for each in plans) == pytest.approx(calls, abs=4)
    assert plans[-1].name == "pairs"


def test_settings_are_part_of_the_build() -> None:
    def prints(**changes: Any) -> list[str]:
        settings = UltraEditSettings(Scripted(), mode="both", side=128, **changes)
        return [fingerprint(stage) for stage in ultraedit_stages(settings)]

    plain = prints()
    assert plain == prints()
    changed = {
        "seeds": (5, "pairs"),
        "softness": ((0.3, 0.4), "masks"),
        "grammar_objects": (True, "objects"),
        "caption_words": ((4, 9), "captions"),
        "pool": (UltraEditSettings(Scripted()).pool[:20], "instructions"),
    }
    names = [stage.name for stage in ultraedit_stages(UltraEditSettings(Scripted(), mode="both"))]
    for name, (value, stage) in changed.items():
        others = prints(**{name: value})
        assert others[names.index(stage)] != plain[names.index(stage)]


@pytest.mark.parametrize(
    "spec",
    [
        *(EditedAnchors(), FinderModels(), ScoringModels(), FolderCaptioner(), RegionEditorSpec()),
        *(PromptToPromptPairs("model"), CaptionPairs("model"), GligenSpec("model")),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_a_build_goes_on_with_another_device(spec: Any) -> None:
    assert repr(replace(spec, device="cuda")) == repr(spec)


def test_a_build_goes_on_with_another_batch() -> None:
    assert repr(CaptionPairs("model", batch=1)) == repr(CaptionPairs("model"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "all"}, "'all' is no mode"),
        ({"side": 100}, "100 px"),
        ({"seeds": 0}, "seeds 0"),
        ({"softness": (0.8, 0.2)}, "softness 0.8 to 0.2"),
        ({"mask_area": (0.1, 1.5)}, "mask_area 0.1 to 1.5"),
        ({"pool": ()}, "no examples"),
    ],
)
def test_rejects_settings_out_of_range(changes: dict, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        UltraEditSettings(Scripted(), **changes)
