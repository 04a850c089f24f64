"""Runs on reasoning instructions with a vision-language model and a connector."""

import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from instructbrush.cli.main import main
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.mllm import Mllm
from instructbrush.core.errors import EvaluationError, ModelError
from instructbrush.core.evaluation.by_instruction.datasets.reasoning import read_reason
from instructbrush.core.evaluation.by_instruction.items import Turn
from instructbrush.core.evaluation.by_instruction.methods import ITEM_METHODS, ItemEditor
from instructbrush.core.evaluation.by_instruction.results import ItemFolder, Score
from instructbrush.core.evaluation.by_instruction.run import ItemRunSettings
from instructbrush.core.evaluation.preference.study import Study
from instructbrush.core.evaluation.runner import run
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.core.models.families import POCKET
from instructbrush.core.reasoning.connector import config_for, new_connector, save_connector
from instructbrush.core.storage.image_tensors import from_image
from instructbrush.tests.support import tiny_mllms
from instructbrush.tests.support.tiny_benchmarks import (
    KNOWN_ANSWER,
    KNOWN_WISH,
    pixels,
    write_reasoning_folder,
)


def test_methods_report_missing_options(editor: DiffusersEditor) -> None:
    item_editor = ItemEditor(editor, SamplingSettings(1), 64)
    turn = Turn("make it night", torch.rand(64, 64, 3))
    for name, message in (
        ("explain", "Add --mllm FOLDER."),
        ("encode", "Add --connector and --tuned-model."),
        ("encode_blind", "Add --connector and"),
    ):
        with pytest.raises(
            EvaluationError, match=f"the method '{name.removesuffix('_blind')}' needs .* {message}"
        ):
            ITEM_METHODS[name].edit(item_editor, turn, turn.source, 1)
    with pytest.raises(
        EvaluationError,
        match="the method 'encode' needs the editor that was fine-tuned with the connector. Add "
        "--tuned-model.",
    ):
        ItemRunSettings(methods=("words", "encode"), model="photographs")
    assert (
        ItemRunSettings(methods=("encode",), model="photographs", tuned_model="tuned").tuned_model == "tuned"
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A LLaVA trained on one wish, a connector that changes edits, and an editor for the tuned one."""
    home = tmp_path_factory.mktemp("models")
    tiny_mllms.train_llava(home / "taught", [(from_image(pixels("0", 0)), KNOWN_WISH, KNOWN_ANSWER)], 150)
    mllm = Mllm(home / "taught")
    connector = new_connector(
        config_for(POCKET, mllm.width, mllm_name=mllm.name, mllm_fingerprint=mllm.fingerprint)
    )
    torch.nn.init.normal_(connector.project_out.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    save_connector(connector, home / "connector.safetensors")
    return {
        "mllm": str(home / "taught"),
        "connector": str(home / "connector.safetensors"),
        "tuned_model": str(POCKET_FOLDER),
    }


@pytest.fixture
def mllm_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of every call of the model."""
    seen: list[str] = []
    answer, states = Mllm.answer, Mllm.states

    def answering(self: Mllm, image: torch.Tensor, words: str, *rest: Any) -> str:
        seen.append(f"answer {words}")
        return answer(self, image, words, *rest)

    def reading(self: Mllm, images: Any, texts: Any, *rest: Any) -> Any:
        seen.append(f"states {', '.join(texts)}")
        return states(self, images, texts, *rest)

    monkeypatch.setattr(Mllm, "answer", answering)
    monkeypatch.setattr(Mllm, "states", reading)
    return seen


@pytest.mark.slow
def test_answers_and_states_are_computed_once(
    tmp_path: Path, models: dict[str, str], mllm_calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    sources = read_reason(write_reasoning_folder(tmp_path / "data")).items[:2]
    settings: dict[str, Any] = {
        "sampling": SamplingSettings(2),
        "side": 64,
        "cache": str(tmp_path / "mllm"),
        **models,
    }
    folder = ItemFolder(tmp_path / "out")
    methods = ("words", "explain", "encode", "encode_blind")
    found = {
        one.key: one
        for one in run(sources, ItemRunSettings(methods=methods, seeds=2, **settings), folder, data="test")
    }
    assert len(found) == 16
    # Both seeds share one answer. The model knows one wish. It is asked twice about the other one, and then
    # the words themselves are used.
    wish, direct = f"answer {KNOWN_WISH}", "answer make it night"
    assert [each for each in mllm_calls if each.startswith("answer")] == [direct, direct, wish]
    assert sorted(each for each in mllm_calls if each.startswith("states")) == sorted(
        [f"states {KNOWN_WISH}", "states make it night"] * 2
    )
    assert "gave no usable answer, so your own words are used" in caplog.text

    def made(method: str, item: str, seed: int = 0) -> bytes:
        return folder.image(item, method, seed, 0).read_bytes()

    explicit, indirect = "0000-direct", "0000-reasoning"
    assert (
        made("explain", indirect)
        == made("words", explicit)
        == made("explain", explicit)
        != made("words", indirect)
    )
    assert made("explain", indirect, 1) == made("words", explicit, 1) != made("words", explicit)
    for item in (explicit, indirect):
        assert len({made(method, item) for method in ("words", "encode", "encode_blind")}) == 3
    # A later run with one more seed does not use the model.
    mllm_calls.clear()
    more = run(sources, ItemRunSettings(methods=methods, seeds=3, **settings), folder, data="test")
    assert len(more) == 24 and not mllm_calls and {one.key: one for one in more}.items() >= found.items()
    # A damaged answer is computed again.
    for file in (tmp_path / "mllm").glob("*.json"):
        file.write_text('{"instruction')
    again = run(
        sources[1:],
        ItemRunSettings(methods=("explain",), **settings),
        ItemFolder(tmp_path / "again"),
        data="test",
    )
    assert mllm_calls == [wish] and again[0].l1 == found["explain", indirect, 0].l1


@pytest.mark.slow
def test_stopped_run_resumes_and_accepts_more_methods(tmp_path: Path, models: dict[str, str]) -> None:
    sources = read_reason(write_reasoning_folder(tmp_path / "data")).items[:2]
    few: dict[str, Any] = {"sampling": SamplingSettings(1), "side": 64}

    def plain(scores: list[Score]) -> list[dict[str, Any]]:
        return [{**asdict(one), "seconds": 0} for one in scores]

    whole = run(
        sources,
        ItemRunSettings(methods=("words", "encode"), **few, **models),
        ItemFolder(tmp_path / "whole"),
        data="test",
    )
    folder = ItemFolder(tmp_path / "stopped")
    run(sources, ItemRunSettings(**few), folder, data="test")
    assert json.loads((folder.path / "run.json").read_text())["connector"] is None

    def stop(one: Score, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            sources,
            ItemRunSettings(methods=("words", "encode"), **few, **models),
            folder,
            data="test",
            on_outcome=stop,
        )
    seen: list[tuple[str, str]] = []
    resumed = run(
        sources,
        ItemRunSettings(methods=("words", "encode"), **few, **models),
        folder,
        data="test",
        on_outcome=lambda one, *_: seen.append((one.method, one.item)),
    )
    assert seen == [("encode", "0000-reasoning")] and plain(resumed) == plain(whole)
    # A run of the words resumes in the same folder; a run with another connector does not.
    run(sources, ItemRunSettings(**few), folder, data="test")
    other = tmp_path / "other.safetensors"
    width = Mllm(models["mllm"]).width
    save_connector(new_connector(config_for(POCKET, width), seed=1), other)
    with pytest.raises(
        EvaluationError,
        match="holds results of another run: connector was '[0-9a-f]{16}', now it is '[0-9a-f]{16}'.",
    ):
        run(
            sources,
            ItemRunSettings(methods=("encode",), **few, **{**models, "connector": str(other)}),
            folder,
            data="test",
        )
    unfit = save_connector(new_connector(config_for(POCKET, width + 1)), tmp_path / "unfit.safetensors")
    with pytest.raises(
        ModelError,
        match=f"'taught' has states {width} wide, the connector was trained with an MLLM .{width + 1}.",
    ):
        run(
            sources,
            ItemRunSettings(methods=("encode",), **few, **{**models, "connector": str(unfit)}),
            ItemFolder(tmp_path / "unfit"),
            data="test",
        )


@dataclass(frozen=True)
class FinishedBench:
    """A finished run of the command with studies."""

    data: Path
    out: Path
    studies: Path
    command: list[str]
    """The command without methods, items and studies."""
    printed: str


EFFECTS = ["--effects", "0000-direct", "0000-reasoning", "0002-direct", "0002-reasoning"]
SELECTION = ["--methods", "words", "encode", *EFFECTS]


@pytest.fixture(scope="module")
def bench_run(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> FinishedBench:
    home = tmp_path_factory.mktemp("bench")
    data = write_reasoning_folder(home / "data")
    out = home / "out"
    studies = home / "studies" / "table_4"
    command = ["bench", "--benchmark", "reason", "--data", str(data), "--out", str(out)]
    command += ["--sampling-steps", "1", "--size", "64", "--device", "cpu"]
    command += ["--mllm", models["mllm"], "--connector", models["connector"]]
    command += ["--tuned-model", models["tuned_model"]]
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main([*command, *SELECTION, "--study", str(studies)]) == 0
    return FinishedBench(data, out, studies, command, printed.getvalue())


@pytest.mark.slow
def test_command_prints_table_and_writes_report(bench_run: FinishedBench) -> None:
    assert "[1/8] 0000-direct words: L1 0." in bench_run.printed
    assert "Means over 2 items, 1 seed." in bench_run.printed
    assert "Reasoning instruction" in bench_run.printed
    page = (bench_run.out / "report.html").read_text("utf-8")
    assert page.count("<img") == 4 * 4
    assert "<th>direct L1 ↓</th>" in page and "<th>reasoning CLIP-T ↑</th>" in page
    columns = page.partition("</tr>")[0].count("<th>")
    first_gray = int(re.search(r"nth-child\(n\+(\d+)\)", page)[1])
    assert first_gray > columns > 1, "no column is gray, because the published figures are rows"
    content = json.loads((bench_run.out / "results.json").read_text())
    assert set(content["parts"]) == {"direct", "reasoning"}
    assert content["about"]["connector"] and len(content["outcomes"]) == 8
    with Image.open(bench_run.out / "grid.png") as grid:
        assert grid.height > 4 * 128


@pytest.mark.slow
@pytest.mark.parametrize(("part", "instruction"), [("direct", "make it night"), ("reasoning", KNOWN_WISH)])
def test_command_begins_studies_and_prints_their_ratings(
    bench_run: FinishedBench, capsys: pytest.CaptureFixture[str], part: str, instruction: str
) -> None:
    folder = bench_run.studies / part
    assert f"{folder}:\n2 comparisons to be judged in Judge Preference." in bench_run.printed
    study = Study.open(folder)
    assert study.methods == ("words", "encode")
    assert {comparison.item for comparison in study.comparisons} == {f"0000-{part}", f"0002-{part}"}
    first = next(comparison for comparison in study.comparisons if comparison.item == f"0000-{part}")
    assert first.instruction == instruction
    images = bench_run.out / "items" / first.item
    saved = ["source-0.png", *(f"{method}-0-0.png" for method in first.methods)]
    for shown, name in zip(first.images, saved, strict=True):
        with Image.open(study.folder / str(shown)) as one, Image.open(images / name) as other:
            assert one.convert("RGB").tobytes() == other.convert("RGB").tobytes()
    study.judge(0, "left")
    assert main([*bench_run.command, *SELECTION, "--study", str(bench_run.studies)]) == 0
    report = capsys.readouterr().out.split(f"{folder}:")[1].splitlines()
    assert report[1] == f"Study '{part}': 1 of 2 judged"
    assert report[3].split()[0] == study.comparisons[0].methods[0]
    assert report[3].split()[3:] == ["1", "0", "0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "words", *EFFECTS, "--study", "STUDIES"], "A study compares two methods or more."),
        (
            [*SELECTION, "--study", "STUDIES", "--study-items", "1"],
            "was started with other contents: it has 2 items, not 1. Give the study another name",
        ),
        (
            [*SELECTION, "--study", "STUDIES", "--study-items", "0"],
            "--study-items is 0; it must be at least 1.",
        ),
        ([*SELECTION, "--study-vote", "best"], "--study-vote does nothing without --study. Leave it out."),
        (["--no-find-scales"], "--no-find-scales does nothing with --benchmark reason. Leave it out."),
        (["--captions", "x"], "--captions does nothing with --benchmark reason. Leave it out."),
    ],
)
def test_command_rejects_invalid_options(
    bench_run: FinishedBench, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    options = [str(bench_run.studies) if option == "STUDIES" else option for option in options]
    assert main([*bench_run.command, *options]) == 1
    assert message in capsys.readouterr().err


def test_command_rejects_options_of_other_benchmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--study", "x"], ["--study-items", "5"], ["--study-vote", "best"]):
        assert main(["bench", "--data", str(tmp_path), *option]) == 1
        assert f"{option[0]} does nothing with --benchmark top-bench." in capsys.readouterr().err
    assert main(["bench", "--data", str(tmp_path), "--tuned-model", "x"]) == 1
    assert "--tuned-model does nothing with --benchmark top-bench." in capsys.readouterr().err
