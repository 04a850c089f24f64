"""Benchmarks made from lists of effects: rows, pairs, the 10 + 5 split, and the benchmark's own reader."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from instructbrush.core.errors import BuildError, DataError
from instructbrush.core.evaluation.by_example.datasets.top_bench import read_top_bench
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.figures import count_rows
from instructbrush.core.generation.engine.run import run_build
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.prompt_to_prompt.candidates import (
    FEW_STEPS_DRAWING,
    IP2P_DRAWING,
    CaptionPairs,
    Drawing,
)
from instructbrush.core.generation.prompt_to_prompt.sampling import PairSettings
from instructbrush.core.generation.scoring import SCORES, Thresholds
from instructbrush.core.generation.top_bench.effects import EffectRows, read_effects
from instructbrush.core.generation.top_bench.stages import (
    IP2P_THRESHOLDS,
    TopBenchSettings,
    top_bench_stages,
)
from instructbrush.core.generation.top_bench.writing import write_top_bench
from instructbrush.core.generation.ultraedit.pairs import EditedAnchors
from instructbrush.core.storage.image_files import read_image, save_image
from instructbrush.core.storage.image_tensors import to_image
from instructbrush.tests.support.text_to_image.tiny_models import write_model

SIDE = 32
ANY = Thresholds(**dict.fromkeys(SCORES, -1.0), least_change=0.0)
THINGS = ("cat", "dog", "car", "tree", "house", "boat", "cup", "bird", "lamp", "chair", "road", "hill", "sea",
          "shop", "bridge", "river")  # fmt: skip


def effect(name: str, count: int = 15, **changes: Any) -> dict[str, Any]:
    pairs = [{"source": f"a {thing}", "target": f"a {thing} at {name}"} for thing in THINGS[:count]]
    return {"name": name, "instruction": f"make it {name}", "scope": "global", "pairs": pairs} | changes


def write_list(folder: Path, *effects: Any) -> Path:
    file = folder / "effects.json"
    file.write_text(json.dumps(list(effects)))
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model") / "sd15"))


def settings(model: str, thresholds: Thresholds = ANY) -> TopBenchSettings:
    maker = CaptionPairs(model, PairSettings(1, SIDE, SIDE), FEW_STEPS_DRAWING)
    return TopBenchSettings(maker, SIDE, 2, thresholds=thresholds)


def test_makes_a_benchmark_that_its_reader_opens(tmp_path: Path, model: str) -> None:
    file = write_list(tmp_path, effect("night", 16), effect("fog", scope="local"))
    stages = top_bench_stages(replace(settings(model), candidates=1))
    build = Build(tmp_path / "build", EffectRows(read_effects(file), tmp_path), stages, 8)
    with pytest.raises(BuildError, match="not finished"):
        write_top_bench(build, tmp_path / "benchmark")
    build.begin()
    run_build(build)
    written = write_top_bench(build, tmp_path / "benchmark")
    assert written.effects == ("night", "fog") and not written.left_out
    night, fog = read_top_bench(tmp_path / "benchmark", side=None)
    assert (night.scope, night.words, fog.scope) == ("global", "make it night", "local")
    assert len(night.train) == 10 and len(night.test) == 5
    captions = json.loads((tmp_path / "benchmark" / "captions.json").read_text())
    columns = ("source_image", "edited_image", "clip_sim_dir", "seed")
    rows = {row["id"]: row for part in range(build.parts) for row in build.rows(1, part, columns)}
    used = captions["night"]["train"] + captions["night"]["test"]
    assert len({row["id"] for row in used}) == 15
    # The one pair that is left out has the lowest direction.
    night_rows = {name for name in rows if name.startswith("night")}
    (left,) = night_rows - {row["id"] for row in used}
    assert rows[left]["clip_sim_dir"] == min(rows[name]["clip_sim_dir"] for name in night_rows)
    third = captions["night"]["test"][2]
    assert (tmp_path / "benchmark/night/test/2_1.png").read_bytes() == rows[third["id"]]["edited_image"][
        "bytes"
    ]
    # The same build gives the same benchmark, and replaces it.
    before = {path: path.read_bytes() for path in sorted((tmp_path / "benchmark").rglob("*.*"))}
    write_top_bench(build, tmp_path / "benchmark")
    assert before == {path: path.read_bytes() for path in sorted((tmp_path / "benchmark").rglob("*.*"))}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(BuildError, match="holds other files"):
        write_top_bench(build, tmp_path / "other")


def test_refuses_pairs_with_reasons_and_effects_without_enough(tmp_path: Path, model: str) -> None:
    long = {"source": "a", "target": "word " * 90}
    file = write_list(tmp_path, effect("night", pairs=[*effect("night", 14)["pairs"], long]))
    build = Build(
        tmp_path / "build",
        EffectRows(read_effects(file), tmp_path),
        top_bench_stages(replace(settings(model), candidates=1)),
    )
    build.begin()
    run_build(build)
    (_, made) = count_rows(build)
    assert dict(made.refused) == {"a caption is longer than the model's text window": 1}
    with pytest.raises(BuildError, match="no effect has the 15 pairs that it needs; left are: 'night' 14"):
        write_top_bench(build, tmp_path / "benchmark")
    assert not (tmp_path / "benchmark").exists()


def test_keeps_the_best_candidate_and_says_which_threshold_failed(tmp_path: Path, model: str) -> None:
    (row,) = EffectRows(read_effects(write_list(tmp_path, effect("night"))), tmp_path).rows(0, 1)
    assert isinstance(row, dict)
    stage = top_bench_stages(replace(settings(model), candidates=4))[0]
    (kept,) = stage.start()(row)
    assert set(kept) == set(stage.adds)
    function = top_bench_stages(settings(model, IP2P_THRESHOLDS))[0].start()
    with pytest.raises(Refused, match="is too low|changes nothing"):
        function(row)
    # Of two and of four candidates, the first two are the same, up to the rounding of batches of other sizes.
    (fewer,) = top_bench_stages(settings(model))[0].start()(row)
    assert fewer["clip_sim_dir"] <= kept["clip_sim_dir"] + 1e-3


def test_edits_anchors_with_the_built_in_editor(tmp_path: Path) -> None:
    image = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(0))
    save_image(to_image(image), tmp_path / "a.png")
    pairs = [{**pair, "image": "a.png"} for pair in effect("night")["pairs"]]
    pairs[1]["image"] = "missing.png"
    file = write_list(tmp_path, effect("night", pairs=pairs))
    source = EffectRows(read_effects(file), tmp_path)
    first, second, third = source.rows(0, 3)
    assert "cannot be read" in str(second) and isinstance(first, dict) and isinstance(third, dict)
    function = top_bench_stages(TopBenchSettings(EditedAnchors(steps=2), 128, 1, thresholds=ANY))[0].start()
    (made,) = function(first)
    assert made["seed"] != function(third)[0]["seed"]
    (tmp_path / "made.png").write_bytes(made["source_image"]["bytes"])
    assert torch.equal(read_image(tmp_path / "made.png"), read_image(tmp_path / "a.png"))
    with pytest.raises(Refused, match="no image to edit"):
        function({**first, "anchor": None})


@pytest.mark.parametrize(
    ("effects", "message"),
    [
        ([], "no list of effects"),
        ([3], "effect 1 is not a table"),
        ([{"name": "night"}], "'instruction' of effect 1 is missing"),
        ([effect("night", scope="both")], "scope of 'night' is 'both'"),
        ([effect("night", pairs={})], "'night' has no list of pairs"),
        ([effect("night", 14)], "'night' has 14 pairs of captions; at least 15"),
        ([effect("night", pairs=[["a", "A"]] * 15)], "both captions of pair 1 of 'night' are equal"),
        ([effect("night", pairs=[["a", "b"]] * 15)], "pairs 1 and 2 of 'night' show the same"),
        ([effect("night", pairs=[["a"]])], "pair 1 of 'night' is not"),
        ([effect("night", pairs=[["a", " "]])], "'target' of pair 1 of 'night' is missing or empty"),
        ([effect("night"), effect("Ni-ght")], "cannot be told from 'night'"),
        ([effect("../up")], "cannot be used"),
        ([effect("a/b")], "no name of one folder"),
        ([effect(".night")], "no name of one folder"),
        ([effect("con")], "reserved on Windows"),
    ],
)
def test_rejects_malformed_lists(tmp_path: Path, effects: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_effects(write_list(tmp_path, *effects))


def test_rejects_missing_files_and_paths_outside(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_effects(tmp_path / "none.json")
    pairs = [{**pair, "image": "../secret.png"} for pair in effect("night")["pairs"]]
    with pytest.raises(DataError, match="'../secret.png' cannot be used"):
        read_effects(write_list(tmp_path, effect("night", pairs=pairs)))


def test_candidates_draw_their_share_and_guidance_from_the_seed() -> None:
    requests = [IP2P_DRAWING.request(("a", "b"), seed) for seed in range(200)]
    shares = [request.control.self_attention for request in requests]
    assert (
        0.1 <= min(shares) < 0.15 and 0.85 < max(shares) <= 0.9 and {r.control.cross for r in requests} == {0}
    )
    assert 7.5 <= min(r.guidance for r in requests) < 8 and max(r.guidance for r in requests) <= 15
    assert IP2P_DRAWING.request(("a", "b"), 7) == requests[7]
    turbo = FEW_STEPS_DRAWING.request(("a", "b"), 1)
    assert turbo.control.cross == turbo.control.self_attention and turbo.guidance == 0
    assert not turbo.control.replace
    for wrong in ({"share": (0.5, 0.1)}, {"share": (0, 1.1)}, {"guidance": (-1, 2)}):
        with pytest.raises(BuildError, match="is no range"):
            Drawing(**wrong)
