"""``build ultraedit`` and ``build ultraedit-examples``."""

import argparse
import json
from pathlib import Path

import pytest

from instructbrush.cli.build import ultraedit, ultraedit_examples
from instructbrush.core.errors import BuildError, RegionError
from instructbrush.core.generation.finders import FinderModels
from instructbrush.core.generation.scoring import POCKET_THRESHOLDS, ScoringModels, Thresholds
from instructbrush.core.generation.ultraedit.examples import read_pool, seed_examples
from instructbrush.core.generation.ultraedit.pairs import EditedAnchors, PromptToPromptPairs
from instructbrush.core.generation.ultraedit.tags import CaptionTags, ModelTags
from instructbrush.tools.build_demo.pocket_rows import pairs, write
from instructbrush.tools.build_demo.scripted_endpoint import Faults, Request, ScriptedEndpoint
from instructbrush.tools.build_demo.ultraedit_answers import answer

MODEL = ("--llm", "http://127.0.0.1:9/v1", "--llm-model", "scripted")


def parsed(*arguments: str, plan: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    ultraedit.add_options(parser)
    options = parser.parse_args(["--out", "build", "--source", "rows", "--device", "cpu", *arguments])
    options.plan = plan
    return options


def reply(request: Request) -> str:
    return answer(request.text, int(request.body.get("seed") or 0))


def test_defaults_are_the_built_in_models() -> None:
    settings = ultraedit.settings_of(parsed(*MODEL))
    assert settings.mode == "free-form"
    assert (settings.side, settings.seeds, settings.edits) == (128, 4, 3)
    assert settings.free_form == EditedAnchors()
    assert settings.region == EditedAnchors(region=True)
    assert settings.tagger == CaptionTags(FinderModels())
    assert (settings.scorer, settings.thresholds) == (ScoringModels(), POCKET_THRESHOLDS)
    assert settings.pool == seed_examples()


def test_options_become_settings() -> None:
    settings = ultraedit.settings_of(
        parsed(*MODEL, "--mode", "both", "--text-to-image", "T", "--region-editor", "R", "--half", "--steps",
               "7", "--strength", "0.5", "--grounding-dino", "D", "--sam", "S", "--clip", "ViT-L-14/openai",
               "--clip-folder", "C", "--dino", "V", "--least-clip-sim-dir", "0.3", "--softness", "0.3", "0.4",
               "--vlm", "http://127.0.0.1:9/v1", "--vlm-model", "eyes", "--objects", "grammar")
    )  # fmt: skip
    assert isinstance(settings.free_form, PromptToPromptPairs)
    assert (settings.free_form.model, settings.free_form.steps, settings.free_form.strength) == ("T", 7, 0.5)
    assert settings.region == EditedAnchors("R", True, 7, half=True)
    assert settings.finder == FinderModels("D", "S", device="cpu")
    assert isinstance(settings.tagger, ModelTags)
    assert settings.scorer == ScoringModels("ViT-L-14/openai", "C", "V", "cpu")
    assert settings.thresholds == Thresholds(clip_sim_dir=0.3)
    assert (settings.softness, settings.side, settings.grammar_objects) == ((0.3, 0.4), 512, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no language model is named"),
        ((*MODEL, "--text-to-image", "T", "--editor", "E"), "Give one"),
        ((*MODEL, "--grounding-dino", "D"), "Give both"),
        ((*MODEL, "--side", "100"), "100 px"),
        ((*MODEL, "--mode", "both", "--editor", "E"), "Give models for both"),
        ((*MODEL, "--softness", "0.9", "0.1"), "softness 0.9 to 0.1"),
        ((*MODEL, "--mask-area", "0.5", "2"), "mask_area 0.5 to 2"),
        ((*MODEL, "--examples", "nowhere"), "no .parquet file in 'nowhere'"),
    ],
)
def test_wrong_options_say_what_to_do(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises((BuildError, RegionError), match=message):
        ultraedit.settings_of(parsed(*arguments))


def test_builds_from_an_endpoint_and_describes_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, list(pairs(3, damaged=0)))
    with ScriptedEndpoint(reply, Faults({"garbage": 0.3, "cut off": 0.2})) as endpoint:
        model = ("--llm", endpoint.address, "--llm-model", "scripted")
        place = ("--source", str(tmp_path / "captions"), "--out", str(tmp_path / "build"))
        few = ("--rows", "2", "--edits", "1", "--seeds", "1", "--steps", "4", "--least-clip-sim-dir", "-1")
        ultraedit.build(parsed(*model, *place, *few, plan=True))
        plan = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (plan["source_rows"], plan["calls"]) == (2, 2)
        assert not endpoint.requests
        ultraedit.build(parsed(*model, *place, *few))
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["source_rows"] == 2
    assert 1 <= facts["rows"] <= 2
    assert facts["finished"]
    sheet = (tmp_path / "build" / "DATASHEET.md").read_text()
    assert f"{facts['rows']} edits of 2 source images" in sheet
    assert f"{endpoint.address} scripted" in sheet


def test_makes_a_pool_of_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    ultraedit_examples.add_options(parser)
    with ScriptedEndpoint(reply) as endpoint:
        options = parser.parse_args(
            ["--out", str(tmp_path), "--llm", endpoint.address, "--llm-model", "s", "--questions", "2"]
        )
        options.plan = False
        ultraedit_examples.build(options)
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    # Two answers of ten; an instruction that the script draws twice counts once.
    assert 15 < facts["rows"] <= 20
    assert len(read_pool([tmp_path])) > len(seed_examples()) + 10
