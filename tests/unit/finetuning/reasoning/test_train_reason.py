"""The command ``reason train`` with the pocket editor and a tiny MLLM."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from instructbrush.cli.main import main
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.encoders.mllm_chat import STATES_TASK
from instructbrush.core.finetuning.reasoning.pair_states import PairStates
from instructbrush.core.models.families import POCKET
from instructbrush.core.reasoning.connector import (
    Connector,
    config_for,
    load_connector,
    new_connector,
    save_connector,
    text_fingerprint,
)
from instructbrush.tests.support import tuning


@pytest.fixture
def command(reasoning_data: Path, mllm_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of a short run into a folder below ``tmp_path``. Later options win, also --data."""

    def arguments(out: str, *more: object) -> list[str]:
        models = ("--model", "pocket", "--mllm", mllm_folder)
        # A repeated --data adds to the first.
        models += () if "--data" in more else ("--data", reasoning_data)
        training = ("--resolution", 64, "--batch", 2, "--precision", "no", "--rate", 1e-3, "--average", 0.5)
        quiet = ("--pictures-every", 0)
        command = ("reason", "train", *models, "--out", tmp_path / out, *training, *quiet, *more)
        return [str(part) for part in command]

    return arguments


@pytest.mark.slow
def test_resumes_exactly_without_the_model(
    command: Callable[..., list[str]],
    reasoning_data: Path,
    mllm_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mllm = Path(shutil.copytree(mllm_folder, tmp_path / mllm_folder.name))
    few_pairs = ("--validation", reasoning_data / "b.parquet")
    options = ("--mllm", mllm, "--save-every", 2, "--pictures-every", 2, *few_pairs)
    assert main(command("whole", *options, "--steps", 3, "--pictures-every", 0)) == 0
    assert main(command("parts", *options, "--steps", 2)) == 0
    halfway = load_file(tmp_path / "parts" / "connector.safetensors")
    for file in mllm.glob("*.safetensors"):
        file.unlink()
    assert main(command("parts", *options, "--steps", 3)) == 1
    assert "already holds a run. Add --resume to continue it" in capsys.readouterr().err
    assert main(command("parts", *options, "--steps", 3, "--resume")) == 0
    assert "from step 2" in capsys.readouterr().err
    for name in (
        "checkpoint.safetensors",
        "connector.safetensors",
        "model/unet/diffusion_pytorch_model.safetensors",
    ):
        tuning.assert_equal(load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name))

    state = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    modules = {name.split(".")[1] for name in state if name.startswith("parameter.")}
    assert modules == {"connector", "denoising"}
    kept = load_file(tmp_path / "whole" / "connector.safetensors")
    average = {name: state[f"average.connector.{name}"] for name in kept}
    tuning.assert_equal(kept, average)
    assert kept["project_out.weight"].any()
    assert not torch.equal(kept["project_out.weight"], halfway["project_out.weight"])

    # The cached states are not taken for those of an MLLM with another name.
    options = ("--mllm", tmp_path / "absent", *options[2:])
    assert main(command("parts", *options, "--steps", 4, "--resume")) == 1
    assert "MLLM 'absent': there is no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_writes_a_model_and_connector_that_edit_together(
    command: Callable[..., list[str]],
    reasoning_data: Path,
    mllm_folder: Path,
    tmp_path: Path,
    make_image: Callable[..., Tensor],
) -> None:
    every_step = ("--steps", 2, "--pictures-every", 2, "--log-every", 1)
    validation = ("--validation", reasoning_data / "b.parquet")
    options = ("--precision", "bf16", "--checkpointing")
    assert main(command("run", *every_step, *validation, *options)) == 0
    out = tmp_path / "run"
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert Image.open(out / "pictures" / "000002.png").size == (3 * 64, 2 * 64)
    tuning.assert_no_pickles(out)

    tuned = load_editor(out / "model")
    connector = load_connector(out / "connector.safetensors")
    mllm = load_mllm(mllm_folder)
    assert tuned.description.family.name == "pocket"
    assert not tuned.description.reads_mask
    config = connector.config
    own_fingerprint = text_fingerprint(tuned.text_encoder.state_dict())
    assert config.text_fingerprint == own_fingerprint
    assert (config.mllm_name, config.mllm_fingerprint) == ("tiny-llava", mllm.fingerprint)
    assert config.task == STATES_TASK
    assert connector.check_fits(mllm.width, mllm.name, mllm.fingerprint, 128, own_fingerprint) == []

    image = make_image(2, 64, 64)[None]
    words = tuned.encode_text(["one corner looks wrong"])
    with_image = connector.encode(words, *mllm.states(list(image), ["one corner looks wrong"]))
    assert not torch.equal(with_image, words)
    settings = SamplingSettings(2)
    plain = tuned.edit(image, words, settings)
    reasoned = tuned.edit(image, with_image, settings)
    assert plain.isfinite().all()
    assert reasoned.isfinite().all()
    assert not torch.equal(plain, reasoned)


@pytest.mark.slow
def test_continues_training_a_given_connector(
    command: Callable[..., list[str]],
    states: PairStates,
    trained_connector: Connector,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = save_connector(trained_connector, tmp_path / "trained.safetensors")
    options = ("--rate", 1e-9, "--states", states.folder)
    connector = ("--connector", file)
    assert main(command("run", *options, *connector, "--steps", 1)) == 0
    expected = trained_connector.state_dict()
    for name, tensor in load_file(tmp_path / "run" / "connector.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=name)

    assert main(command("run", *options, "--resume", "--steps", 2)) == 1
    assert "belongs to another run" in capsys.readouterr().err

    trained_connector.config = replace(trained_connector.config, mllm_fingerprint="00", mllm_name="another")
    save_connector(trained_connector, file)
    assert main(command("other", *options, *connector, "--steps", 1)) == 1
    message = (
        "Connector: it was trained with another MLLM (another, 32 wide) than 'tiny-llava' (32 wide). "
        "Give that one"
    )
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(
    command: Callable[..., list[str]], states: PairStates, trained_connector: Connector, tmp_path: Path
) -> None:
    file = save_connector(trained_connector, tmp_path / "trained.safetensors")
    options = ("--steps", 2, "--average", 0, "--connector", file, "--first-stage-steps", 2)
    batch = ("--first-stage-batch", 2, "--states", states.folder)
    assert main(command("one", *options, *batch)) == 0
    tuning.run_in_two_processes(command("two", *options, "--batch", 1, "--first-stage-batch", 1))
    shared = PairStates.read(tmp_path / "two" / "states")
    assert shared is not None
    assert shared.keys == states.keys, "each process computed its share"
    one = load_file(tmp_path / "one" / "checkpoint.safetensors")
    two = load_file(tmp_path / "two" / "checkpoint.safetensors")
    assert int(two["steps_done"]) == 2
    assert any(name.startswith("optimiser.exp_avg.connector.layers") for name in one)
    tuning.assert_same_gradients(one, two)
    first = [load_file(tmp_path / name / "first_stage.safetensors") for name in ("one", "two")]
    tuning.assert_same_gradients(*first)


@pytest.fixture
def invalid_inputs(
    states_copy: Path, write_pair: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes invalid data sets and a connector of another shape into the working folder."""
    monkeypatch.chdir(tmp_path)
    write_pair("wordless", words=" ", reasoning=[""])
    write_pair("numbers", reasoning=3)
    write_pair("long", words="darker " * 700)
    (write_pair("cut") / "0_after.png").write_bytes(b"\x89PNG")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "pairs.json").write_text("[]")
    narrow = replace(config_for(POCKET, 24), text_width=16, queries=6, feedforward=8)
    save_connector(new_connector(narrow), tmp_path / "narrow.safetensors")


@pytest.mark.usefixtures("invalid_inputs")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "nowhere"), "nowhere: there is no such file or folder"),
        (
            ("--mllm", "nowhere"),
            "MLLM 'nowhere': there is no folder nowhere. Put llava-hf/llava-1.5-7b-hf, or another "
            "model of its kind, into nowhere",
        ),
        (
            ("--data", "nowhere"),
            "Data: 'nowhere' does not exist. Give a folder with .parquet files or with pairs.json.",
        ),
        (("--data", "none"), "Data: 'none' holds neither .parquet files nor pairs"),
        (("--data", "wordless"), "Data: 'wordless' holds 1 pairs without words."),
        (
            ("--data", "numbers"),
            "Pair '0 of numbers': its reasoning is 3; a text or a list of texts is needed.",
        ),
        (("--data", "long"), "image and words are 4"),
        (("--data", "cut"), "Data: none of the pairs can be used. Image '0_after.png' cannot be read"),
        (("--validation", "wordless"), "Data: 'wordless' holds 1 pairs without words."),
        (("--resolution", 60), "--resolution 60 is not a multiple of 8, the pixels of a latent"),
        (("--resume",), "has no checkpoint to resume from. Leave --resume out."),
        (("--indirect", 1.5), "--indirect is 1.5; it is a probability, 0 to 1"),
        (("--mllm-batch", 0), "--mllm-batch is 0; it must be 1 or more"),
        (
            ("--precision", "fp16"),
            "training on the CPU does not support fp16. Choose --precision bf16",
        ),
        (("--connector", "nothing.safetensors"), "nothing.safetensors"),
        (
            ("--connector", "narrow.safetensors"),
            "Connector: it gives 6 text states 16 wide for pocket; pocket editor takes 32 of 128. "
            "Give the model it",
        ),
        (("--states", "states", "--mllm-precision", "bf16"), "are those of 'tiny-llava' in float32"),
    ],
)
def test_reports_mistakes_in_one_line(
    command: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    options: tuple[Any, ...],
    message: str,
) -> None:
    assert main(command("run", "--pictures-every", 9, *options)) == 1
    printed = capsys.readouterr().err
    # Progress bars are printed too.
    lines = [line for line in printed.splitlines() if line.startswith("instructbrush: ")]
    assert len(lines) == 1, printed
    assert message in lines[0]
    assert "Traceback" not in printed


def test_reason_requires_a_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reason"])
    assert "the following arguments are required: what" in capsys.readouterr().err
