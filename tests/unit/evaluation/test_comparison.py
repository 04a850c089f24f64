"""Gains over InstructBrush and costs, compared with worked examples."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest

from instructbrush.core.evaluation.by_example.comparison import (
    comparison_heads,
    comparison_rows,
    comparison_text,
    gain,
    plain_rows,
)
from instructbrush.core.evaluation.by_example.results import Outcome
from instructbrush.core.evaluation.reports.figures import interval
from instructbrush.tools.benchmarks import published
from instructbrush.tools.benchmarks.pocket_bench import main
from instructbrush.tools.pocket.world.held_out_effects import TEST


def outcome(effect: str, method: str, psnr: float, seed: int = 0, **more: object) -> Outcome:
    values = (psnr,), (0.5,), None, 0.25, (0.9,)
    return Outcome(effect, "global", method, seed, *values, **more)  # type: ignore[arg-type]


OUTCOMES = [
    outcome("a", "instructbrush", 20.0, learning_seconds=30.0, file_bytes=700_000, damage=0.0),
    outcome("a", "instructbrush", 24.0, seed=1, learning_seconds=40.0, file_bytes=700_200),
    outcome("b", "instructbrush", 30.0, learning_seconds=20.0, file_bytes=700_000, damage=0.0),
    outcome("a", "lora_r4", 23.0, learning_seconds=10.0, file_bytes=142_000, damage=0.02),
    outcome("b", "lora_r4", 33.0, learning_seconds=20.0, file_bytes=142_000, damage=0.04),
    outcome("c", "lora_r4", 99.0),
    outcome("b", "words", 21.0),
]


def test_gain_pairs_effects_and_seeds_and_averages_seeds_first() -> None:
    # Effect a: 23 - 20, because the LoRA has seed 0 only. Effect b: 33 - 30. Effect c has no counterpart.
    assert gain(OUTCOMES, "lora_r4", "psnr") == interval([3.0, 3.0])
    # Effect a: (23 + 26) / 2 - (20 + 24) / 2. Seed 2 has no counterpart.
    more = [*OUTCOMES, outcome("a", "lora_r4", 26.0, seed=1), outcome("a", "lora_r4", 99.0, seed=2)]
    assert gain(more, "lora_r4", "psnr") == interval([2.5, 3.0])
    assert gain([*OUTCOMES[:1], outcome("a", "visii", 21.0, seed=1)], "visii", "psnr") is None
    assert gain(OUTCOMES, "words", "psnr") == interval([-9.0])
    assert gain(OUTCOMES, "instructbrush", "psnr") is None
    assert gain(OUTCOMES[3:], "words", "psnr") is None


def test_plain_rows_have_figures_gains_and_costs() -> None:
    rows = plain_rows(OUTCOMES)
    ours, lora = rows["instructbrush"], rows["lora_r4"]
    assert (ours["psnr"], ours["effects"], ours["seeds"]) == (26.0, 2, 2) and "psnr_gain" not in ours
    assert (ours["seconds"], ours["bytes"], ours["damage"]) == (30.0, 700_067, 0.0)
    assert lora["psnr_gain"] == 3.0 and lora["psnr_gain_ci95"] == 0.0
    assert (ours["outcomes"], lora["outcomes"], rows["words"]["outcomes"]) == (3, 3, 1)
    assert (lora["seconds"], lora["bytes"], lora["damage"], lora["effects"]) == (15.0, 142_000, 0.03, 3)
    assert lora["lpips"] is None and not {"seconds", "bytes", "damage"} & set(rows["words"])


def test_table_shows_gains_with_their_sign() -> None:
    rows = {row[0]: dict(zip(comparison_heads(), row, strict=True)) for row in comparison_rows(OUTCOMES)}
    assert rows["lora_r4"]["PSNR ↑ gain"] == "+3.00 ±0.00" and rows["words"]["PSNR ↑ gain"] == "-9.00"
    assert rows["lora_r4"]["file, KB"] == "142" and rows["lora_r4"]["damage"] == "0.0300"
    assert rows["words"]["learning, s"] == rows["instructbrush"]["PSNR ↑ gain"] == "-"
    assert rows["lora_r4"]["PSNR ↑"].startswith("51.67 ±") and rows["lora_r4"]["LPIPS ↓ gain"] == "-"
    assert "paired over effects and over the seeds that both have" in comparison_text(OUTCOMES)


def test_infinite_figures_have_no_interval_and_are_null_in_json() -> None:
    # The result equals the truth: its PSNR is infinite.
    equal = [outcome("a", "copy", math.inf), outcome("b", "copy", 20.0)]
    ours = [outcome("a", "instructbrush", 20.0), outcome("b", "instructbrush", math.inf)]
    text = comparison_text([*equal, *ours])
    assert "nan" not in text and "inf" in text
    rows = plain_rows([*equal, *ours])
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    for row in rows.values():
        assert row["psnr"] is None and row["ssim"] == 0.5
        assert not {"psnr_ci95", "psnr_gain_ci95"} & set(row)
    assert rows["copy"]["psnr_gain"] is None and rows["copy"]["ssim_gain"] == 0.0
    # Both equal the truth.
    same = [outcome("a", "copy", math.inf), outcome("a", "instructbrush", math.inf)]
    assert gain(same, "copy", "psnr") == interval([0.0])
    assert interval([math.inf, 20.0]) == interval([math.inf]) and interval([math.inf]).show(2) == "inf"
    assert math.isnan(interval([math.inf, -math.inf]).mean)
    broken = [outcome("a", "visii", 20.0, damage=math.nan, learning_seconds=2.0)]
    assert plain_rows(broken)["visii"]["seconds"] == 2.0 and "damage" not in plain_rows(broken)["visii"]


def test_publishes_only_methods_with_every_effect_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from instructbrush.tools.benchmarks import pocket_bench

    def publish(*given: object) -> Path:
        return published.publish(*given, folder=pocket_bench.REPOSITORY / tmp_path)  # type: ignore[arg-type]

    kept = [outcome(name, "words", 20.0, seed) for name in TEST for seed in range(2)]
    # The paper's settings and ablations, and images made elsewhere, may have seed 0 only.
    kept += [outcome(name, method, 20.0) for name in TEST for method in ("no_time", "sdedit")]
    kept += [outcome(name, "lora_r16", 20.0, seed) for name in TEST for seed in range(2)]
    kept += [outcome(name, "adapter", 21.0 + seed, seed) for name in TEST for seed in range(2)]
    # Of another run; the command would not make it.
    kept.append(outcome("ramp", "words", 90.0, seed=2))
    seen: list[tuple[int | None, int]] = []

    def run_and_report(options: Namespace, *given: object, own_steps: int, **more: object) -> list[Outcome]:
        seen.append((options.steps, own_steps))
        return kept

    monkeypatch.setattr(pocket_bench, "run_and_report", run_and_report)
    monkeypatch.setattr(pocket_bench, "publish", publish)
    monkeypatch.setattr(pocket_bench, "REPOSITORY", tmp_path)
    options = ["--lpips", "x", "--seeds", "2", "--out", str(tmp_path), "--publish"]
    options += ["--stored", f"sdedit={tmp_path}", "--first-seed", "1"]
    assert main(options) == 0
    content = json.loads((tmp_path / "pocket_bench.json").read_text())
    assert content["command"] == "tools/benchmarks/pocket_bench.py --seeds 2"
    words, once = content["methods"]["words"], content["methods"]["no_time"]
    assert (words["psnr"], words["effects"], words["seeds"], words["outcomes"]) == (20.0, 25, 2, 50)
    assert (once["seeds"], once["outcomes"]) == (1, 25) and content["about"]["stored"] == ["sdedit"]
    # The adapter is paired with a LoRA over effects and seeds.
    assert content["methods"]["adapter"]["psnr_over_lora_r16"] == 1.5
    assert "psnr_over_lora_r4" not in content["methods"]["adapter"]
    assert str(tmp_path) not in (tmp_path / "pocket_bench.json").read_text()
    assert content["about"]["steps"] == 250 and seen == [(None, 250)]
    # Seed 1 is there, but not on all effects.
    more = [outcome(name, "visii", 22.0) for name in TEST] + [outcome(TEST[0], "visii", 22.0, seed=1)]
    for lacking, told in (
        (more, "visii (26 of 50 results) cannot be published without all 25 effects, each with every seed"),
        ([outcome("ramp", "no_init", 22.0)], "no_init (1 of 25 results) cannot be published"),
        ([outcome(TEST[0], "hive", 22.0, seed=1)], "hive (1 of 50 results) cannot be published"),
    ):
        complete = len(kept)
        kept.extend(lacking)
        assert main(options) == 1 and told in capsys.readouterr().err
        del kept[complete:]
    assert main([*options, "--split", "development"]) == 1
    assert "--publish needs all effects of the test set" in capsys.readouterr().err
