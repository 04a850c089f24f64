"""The files of docs/results: their shape, and what they must not name."""

import json
import re
from pathlib import Path

import pytest

from instructbrush.core.errors import EvaluationError
from instructbrush.tools.benchmarks.published import REPOSITORY, command_line, publish

ROWS = {"words": {"psnr": 17.1, "psnr_ci95": 0.5, "lpips": None, "seeds": 3}}


def test_writes_figures_with_versions_and_machine(tmp_path: Path) -> None:
    path = publish("tiny", "TinyBench", "tools/tiny.py --seeds 3", ROWS, {"steps": 2}, tmp_path)
    content = json.loads(path.read_text("utf-8"))
    assert path.name == "tiny.json" and content["methods"] == ROWS and content["about"] == {"steps": 2}
    assert content["command"] == "tools/tiny.py --seeds 3" and content["benchmark"] == "TinyBench"
    assert {"python", "torch", "diffusers", "transformers", "pack"} <= set(content["versions"])
    assert re.fullmatch(r"([0-9a-f]{40}|unknown)\+?", content["versions"]["pack"])
    assert content["machine"]["cpu"] and content["machine"]["cores"] >= 1


@pytest.mark.parametrize("rows", [{}, {"words": {}}])
def test_rejects_results_without_figures(rows: dict, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no figures to publish. Run the benchmark first."):
        publish("tiny", "TinyBench", "tiny", rows, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_rejects_folders_of_this_machine(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="belongs to this machine and must not be published"):
        publish("tiny", "TinyBench", f"tiny --data {REPOSITORY}/data", ROWS, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_command_leaves_out_options_of_this_machine() -> None:
    arguments = ["--out", "/some/folder", "--seeds", "3", "--lpips=/a/b", "--methods", "words", "visii"]
    assert (
        command_line("tools/a.py", arguments, ("--out", "--lpips"))
        == "tools/a.py --seeds 3 --methods words visii"
    )
    assert command_line("a.py", ["--publish"], ("--publish",)) == "a.py"
