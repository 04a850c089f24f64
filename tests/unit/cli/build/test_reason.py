import argparse
import json
from pathlib import Path

import pytest

from instructbrush.cli.build import reason
from instructbrush.core.errors import BuildError
from instructbrush.core.generation.reason.models.captioners import AskedCaptioner, FolderCaptioner
from instructbrush.core.generation.reason.models.gligen import GligenSpec
from instructbrush.core.generation.reason.models.region_editor import RegionEditorSpec
from instructbrush.tools.build_demo import reason_answers
from instructbrush.tools.build_demo.pocket_rows import pairs, write
from instructbrush.tools.build_demo.scripted_endpoint import Faults, Request, ScriptedEndpoint

ROWS = 10


def parsed(*arguments: str, plan: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    reason.add_options(parser)
    options = parser.parse_args(["--out", "build", "--source", "rows", "--device", "cpu", *arguments])
    options.plan = plan
    return options


MODEL = ("--llm", "http://127.0.0.1:9/v1", "--llm-model", "scripted")


def test_options_become_settings() -> None:
    settings = reason.settings_of(
        parsed(*MODEL, "--parts", "3", "2", "--gligen", "G", "--half", "--captioner", "B", "--spacy", "S",
               "--grounding-dino", "D", "--box-area", "0.1", "0.5", "--candidates", "7", "--threshold", "0.2")
    )  # fmt: skip
    assert settings.parts == (2, 3)
    assert settings.replacer == GligenSpec("G", "cpu", True, 50)
    assert settings.captioner == FolderCaptioner("B", "cpu", True)
    assert (settings.limits.least_area, settings.limits.most_area) == (0.1, 0.5)
    assert (settings.candidates, settings.threshold) == (7, 0.2)
    assert "folder='S'" in repr(settings.parser) and "dino='D'" in repr(settings.finder)
    default = reason.settings_of(parsed(*MODEL))
    assert default.parts == (1, 2) and default.captioner is None and default.needs_ranks
    assert default.replacer == RegionEditorSpec(device="cpu")
    seeing = reason.settings_of(
        parsed(*MODEL, "--captioner", "vlm", "--vlm", "http://127.0.0.1:9/v1", "--vlm-model", "eye")
    )
    assert isinstance(seeing.captioner, AskedCaptioner)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*MODEL, "--gligen", "G", "--editor", "E"), "both replace objects"),
        ((*MODEL, "--grounding-dino", "D", "--clipseg", "C"), "both find objects"),
        ((*MODEL, "--captioner", "vlm"), "--vlm, which is missing"),
        ((), "no language model"),
        ((*MODEL, "--lowest", "1.5"), "out of range"),
    ],
)
def test_rejects_options_that_contradict_each_other(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        reason.settings_of(parsed(*arguments))


def answer(request: Request) -> str:
    return reason_answers.answer(request.text, int(request.body.get("seed") or 0))


def test_a_build_is_planned_run_and_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "rows", list(pairs(ROWS, damaged=0.0)))
    out = tmp_path / "out"
    faults = Faults({"garbage": 0.2, "cut off": 0.1})
    with ScriptedEndpoint(answer, faults) as endpoint:
        arguments = ["--source", str(tmp_path / "rows" / "pairs"), "--out", str(out), "--parts", "1"]
        arguments += ["--llm", endpoint.address, "--llm-model", "scripted", "--candidates", "3"]
        reason.build(parsed(*arguments, plan=True))
        planned = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert planned["source_rows"] == ROWS and planned["rows"] == 9 and planned["calls"] == 9 * 4
        assert not endpoint.requests and not out.exists()

        reason.build(parsed(*arguments))
        printed = capsys.readouterr().out
        facts = json.loads(printed.splitlines()[-1])
        refused = sum(number for reasons in facts["refused"].values() for number in reasons.values())
        assert facts["rows"] + refused == ROWS and facts["refused"]["filter"] == {
            "the edit hardly changes the image": 1
        }
        assert "8,013" in printed and (out / "table2.txt").read_text() in printed
        (file,) = (Path(name) for name in facts["files"])
        first = file.read_bytes()
        asked = len(endpoint.requests)
        assert endpoint.met["garbage"] and asked > facts["rows"] * 4

        reason.build(parsed(*arguments))  # nothing is left to make
        assert file.read_bytes() == first and len(endpoint.requests) == asked
        with pytest.raises(BuildError, match="candidates"):
            reason.build(parsed(*arguments, "--fewest-candidates", "3"))
