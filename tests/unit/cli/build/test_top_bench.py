import argparse
import json
from pathlib import Path

import pytest

from instructbrush.cli.build import top_bench
from instructbrush.core.errors import BuildError
from instructbrush.core.evaluation.by_example.datasets.top_bench import read_top_bench
from instructbrush.core.generation.prompt_to_prompt.candidates import CaptionPairs
from instructbrush.core.generation.scoring import POCKET_THRESHOLDS
from instructbrush.core.generation.top_bench.stages import IP2P_THRESHOLDS
from instructbrush.core.generation.ultraedit.pairs import EditedAnchors
from instructbrush.tests.support.text_to_image.tiny_models import write_model


def parsed(*arguments: str, plan: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    top_bench.add_options(parser)
    options = parser.parse_args(
        ["--out", "build", "--effects", "effects.json", "--device", "cpu", *arguments]
    )
    options.plan = plan
    return options


def test_options_become_settings() -> None:
    settings = top_bench.settings_of(
        parsed("--text-to-image", "T", "--control", "few-steps", "--share", "0.2", "0.4", "--candidates", "7",
               "--side", "256", "--strength", "0.5", "--half", "--batch", "2", "--clip", "ViT-L-14/openai",
               "--least-ssim", "0.3")
    )  # fmt: skip
    maker = settings.maker
    assert isinstance(maker, CaptionPairs) and (maker.model, maker.batch, maker.half) == ("T", 2, True)
    assert (maker.settings.steps, maker.settings.width, maker.settings.strength) == (4, 256, 0.5)
    assert maker.drawing.share == (0.2, 0.4) and maker.drawing.guidance == (0.0, 0.0)
    assert settings.candidates == 7 and settings.thresholds.ssim == 0.3
    assert settings.thresholds.clip_sim_image == IP2P_THRESHOLDS.clip_sim_image == 0.75
    default = top_bench.settings_of(parsed())
    assert default.maker == EditedAnchors(device="cpu") and default.side == 128
    assert default.thresholds == POCKET_THRESHOLDS
    with pytest.raises(BuildError, match="both make the pairs"):
        top_bench.settings_of(parsed("--text-to-image", "T", "--editor", "E"))
    with pytest.raises(BuildError, match="guidance 5.0 to 2.0 is no range"):
        top_bench.settings_of(parsed("--text-to-image", "T", "--guidance", "5", "2"))


def test_a_benchmark_is_planned_and_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [[f"a {n} cats", f"a {n} dogs"] for n in range(15)]
    listed = [{"name": "dogs", "instruction": "make them dogs", "scope": "local", "pairs": pairs}]
    (tmp_path / "effects.json").write_text(json.dumps(listed))
    model = write_model(tmp_path / "model")
    loose = [f"--least-{name}" for name in ("clip-sim-image", "clip-sim-dir", "clip-sim-source",
                                            "clip-sim-target", "dinov2-sim", "ssim")]  # fmt: skip
    arguments = ["--effects", str(tmp_path / "effects.json"), "--out", str(tmp_path / "out")]
    arguments += ["--text-to-image", str(model), "--side", "32", "--steps", "1", "--candidates", "1"]
    arguments += [each for name in loose for each in (name, "-1")] + ["--least-change", "0"]
    top_bench.build(parsed(*arguments, plan=True))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["source_rows"] == 15
    top_bench.build(parsed(*arguments))
    captured = capsys.readouterr()
    facts = json.loads(captured.out.splitlines()[-1])
    assert facts["rows"] == 15 and not facts["refused"] and "1 effects of 10 + 5 pairs" in captured.err
    (effect,) = read_top_bench(tmp_path / "out" / "top_bench", side=None)
    assert (effect.name, effect.words, effect.scope) == ("dogs", "make them dogs", "local")
