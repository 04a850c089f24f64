"""The first stage of ``reason train``, which teaches the connector the meaning of instructions."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from instructbrush.cli.main import main
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.finetuning.objective import EditInputs
from instructbrush.core.finetuning.reasoning.first_stage import (
    MeaningInputs,
    MeaningLoss,
    MeaningSample,
    MeaningStream,
)
from instructbrush.core.finetuning.reasoning.pair_states import PairStates
from instructbrush.core.finetuning.reasoning.with_connector import (
    ConnectorInputs,
    ConnectorLoss,
    ConnectorStream,
)
from instructbrush.core.finetuning.trainer import FineTuning
from instructbrush.core.reasoning.connector import Connector, load_connector
from instructbrush.tests.support import tiny_edits, tuning

MakeStream = Callable[..., MeaningStream]


@pytest.fixture
def make_stream(reasoning_data: Path, states: PairStates) -> MakeStream:
    def make(direct: float = 0.25, places: Sequence[Path] = ()) -> MeaningStream:
        return MeaningStream(find_blocks(places or [reasoning_data]), 0, direct, states)

    return make


def samples_of(stream: MeaningStream, count: int) -> list[MeaningSample]:
    batches = stream.batches(0, count)
    found = next(batches)
    batches.close()
    return found


def test_shows_direct_instructions_as_often_as_asked(make_stream: MakeStream) -> None:
    """Every third pair has a direct instruction only."""
    samples = samples_of(make_stream(), 600)
    assert all(sample.meant.startswith("invert part") for sample in samples)
    direct = [sample.words == sample.meant for sample in samples]
    assert sum(direct) / len(direct) == pytest.approx(1 / 3 + 2 / 3 * 0.25, abs=0.06)
    never = samples_of(make_stream(direct=0.0), 60)
    only_direct = {sample.meant for sample in never if sample.words == sample.meant}
    assert only_direct == {"invert part 2", "invert part 5"}


def test_passes_over_pairs_without_direct_instruction(
    make_stream: MakeStream, reasoning_data: Path, tmp_path: Path
) -> None:
    content = tiny_edits.with_reasoning(tiny_edits.rows(4))
    content[1]["edit_prompt"] = ""
    content[2]["source_image"] = None
    table = tiny_edits.write_table(tmp_path / "t.parquet", content[1:])
    stream = make_stream(places=[table])
    assert {sample.meant for sample in samples_of(stream, 6)} == {"invert part 3"}
    assert list(stream.skipped) == ["t.parquet row 1"], "only the pair without an image is a fault"


def test_loss_is_the_distance_to_the_direct_instruction(
    make_stream: MakeStream, editor: DiffusersEditor, trained_connector: Connector
) -> None:
    samples = samples_of(make_stream(), 4)
    assert any(sample.words != sample.meant for sample in samples)
    arguments = MeaningInputs(editor)(samples)
    with torch.no_grad():
        errors = MeaningLoss(trained_connector)(**arguments)
    for sample, error in zip(samples, errors, strict=True):
        words, meant = editor.encode_text([sample.words, sample.meant])
        everything = torch.ones(1, len(sample.states), dtype=torch.bool)
        states = trained_connector.encode(words[None], sample.states[None], everything)
        assert float(error) == pytest.approx(float(torch.nn.functional.mse_loss(states[0], meant)), rel=1e-4)


def test_meaning_is_added_to_the_editor_s_loss_where_there_is_text(
    editor: DiffusersEditor, trained_connector: Connector, connector_stream: ConnectorStream
) -> None:
    samples = [connector_stream.sample(index, connector_stream.record(index)) for index in range(8)]
    edit_inputs = EditInputs(editor, 0, 1 / 3)
    arguments = ConnectorInputs(edit_inputs, meaning_weight=0.5)(samples)
    loss = ConnectorLoss(editor.denoiser.unet, trained_connector)
    with torch.no_grad():
        plain = loss(**ConnectorInputs(edit_inputs)(samples))
        added = loss(**arguments) - plain
        meaning = MeaningLoss(trained_connector)(
            editor.encode_text([sample.words for sample in samples]),
            arguments["states"],
            arguments["mask"],
            editor.encode_text([sample.meant for sample in samples]),
        )
    without_text = arguments["without_text"]
    assert without_text.any()
    assert not without_text.all()
    torch.testing.assert_close(added, torch.where(without_text, 0.0, 0.5 * meaning), rtol=1e-3, atol=1e-5)
    unknown = ConnectorInputs(edit_inputs, 0.5)([replace(sample, meant="") for sample in samples])
    assert not unknown["meaning_weight"].any(), "pairs without direct instruction add nothing"


@pytest.fixture
def command(
    reasoning_data: Path, mllm_folder: Path, states: PairStates, tmp_path: Path
) -> Callable[..., list[str]]:
    """The command line of a short run with a first stage. Later options win."""

    def arguments(out: str, *more: object) -> list[str]:
        models = ("--model", "pocket", "--mllm", mllm_folder, "--states", states.folder)
        data = ("--data", reasoning_data, "--out", tmp_path / out, "--pictures-every", 0)
        training = ("--resolution", 64, "--batch", 2, "--precision", "no", "--average", 0.5, "--steps", 2)
        first = ("--first-stage-steps", 3, "--first-stage-batch", 4, "--log-every", 1)
        command = ("reason", "train", *models, *data, *training, *first, *more)
        return [str(part) for part in command]

    return arguments


def test_resumed_run_equals_uninterrupted_run_in_both_stages(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--meaning-weight", 0.05)
    assert main(command("whole", *options)) == 0
    step = FineTuning.step
    # After two steps of the first stage, after its last one, and after a step of the second.
    stops = [2, 3, 4]
    done: list[int] = []

    def interrupted(run: FineTuning) -> None:
        step(run)
        done.append(run.steps_done)
        if stops and len(done) == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(FineTuning, "step", interrupted)
    assert main(command("parts", *options)) == 130
    assert "stopped at step 2; continue with --resume" in capsys.readouterr().err
    assert main(command("parts", *options)) == 1
    assert "already holds a run. Add --resume" in capsys.readouterr().err
    assert main(command("parts", *options, "--resume")) == 130
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()
    assert main(command("parts", *options, "--resume")) == 130
    assert main(command("parts", "--resume")) == 1
    assert "belongs to another run: meaning weight (0.05 there, null here) differs" in capsys.readouterr().err
    assert main(command("parts", *options, "--resume")) == 0
    assert done == [1, 2, 3, 1, 2]
    for name in (
        *("first_stage.safetensors", "checkpoint.safetensors", "connector.safetensors"),
        "model/unet/diffusion_pytorch_model.safetensors",
    ):
        tuning.assert_equal(load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name))
    log = [json.loads(line) for line in (tmp_path / "whole" / "first_stage.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3]


def test_second_stage_starts_from_the_average_of_the_first(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    slow = ("--rate", 1e-12, "--steps", 1, "--average", 0)
    assert main(command("run", *slow, "--first-stage-rate", 1e-2)) == 0
    kept = load_connector(tmp_path / "run" / "connector.safetensors").state_dict()
    first = load_file(tmp_path / "run" / "first_stage.safetensors")
    average = {name: first[f"average.connector.{name}"] for name in kept}
    assert kept["project_out.weight"].any()
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, average[name], rtol=0, atol=1e-7, msg=name)
    assert not torch.equal(first["parameter.connector.queries.weight"], average["queries.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--first-stage-direct", 2), "--first-stage-direct is 2.0; it is a probability, 0 to 1"),
        (("--first-stage-steps", -1), "--first-stage-steps and --meaning-weight must be 0 or more"),
        (("--first-stage-batch", 0), "batch is 0; it must be more than 0"),
        (
            ("--first-stage-data", "plain"),
            "the first stage learns from pairs with a direct and an indirect instruction, and the data has "
            "none. Add 'reasoning' beside 'words', give other data with --first-stage-data, or leave",
        ),
    ],
)
def test_reports_mistakes_before_anything_is_loaded(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[Any, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_edits.write_folder(tmp_path / "plain", 1)
    assert main(command("run", *options, "--model", "nowhere")) == 1
    assert message in capsys.readouterr().err
