"""The command ``train-region`` with the pocket editor."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from instructbrush.cli.finetuning.model import prepare_model
from instructbrush.cli.main import main
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.errors import StorageError
from instructbrush.core.finetuning.accelerator import make_accelerator
from instructbrush.core.finetuning.export import save_model
from instructbrush.core.finetuning.trainer import FineTuning
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.tests.support import tiny_edits, tuning

Command = Callable[..., list[str]]
NO_IMAGES = ("--pictures-every", 0)


@pytest.fixture
def command(region_data: Path, tmp_path: Path) -> Command:
    """The command line of a short run into a folder below ``tmp_path``. Later options win, also --data."""

    def arguments(out: str, *more: object) -> list[str]:
        data = ("--model", "pocket", "--out", tmp_path / out)
        # A repeated --data adds to the first.
        data += () if "--data" in more else ("--data", region_data)
        training = ("--resolution", 64, "--batch", 2, "--precision", "no", "--rate", 1e-3, "--average", 0.5)
        return [str(part) for part in ("train-region", *data, *training, *more)]

    return arguments


@pytest.mark.slow
def test_writes_an_editor_that_reads_masks(
    command: Command, tmp_path: Path, make_image: Callable[..., Tensor]
) -> None:
    out = tmp_path / "run"
    options = ("--steps", 3, "--pictures-every", 3, "--log-every", 1, "--precision", "bf16")
    assert main(command("run", *options)) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["loss"] > 0 for line in lines)
    assert Image.open(out / "pictures" / "000003.png").size == (4 * 64, 4 * 64)
    tuning.assert_no_pickles(out)

    tuned = load_editor(out / "model")
    assert tuned.description.reads_mask
    assert tuned.description.family.name == "pocket"
    image = make_image(2, 64, 64)[None]
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    settings = SamplingSettings(2)
    everywhere = tuned.edit(image, "make it darker", settings)
    upper_half = tuned.edit(image, "make it darker", settings, masks=mask)
    assert not torch.equal(everywhere, upper_half)


@pytest.mark.slow
def test_resumes_exactly(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (*NO_IMAGES, "--save-every", 2)
    assert main(command("whole", *options, "--steps", 3)) == 0
    assert main(command("parts", *options, "--steps", 2)) == 0
    log = tmp_path / "parts" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 3}\n')  # As if it had been stopped after the checkpoint.
    assert main(command("parts", *options, "--steps", 3)) == 1
    message = "already holds a run. Add --resume to continue it, or choose another --out."
    assert message in capsys.readouterr().err
    assert main(command("parts", *options, "--steps", 3, "--resume")) == 0
    assert "from step 2" in capsys.readouterr().err
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert all(sorted(line) == ["loss", "rate", "seconds", "step"] for line in lines)
    for name in ("checkpoint.safetensors", "model/unet/diffusion_pytorch_model.safetensors"):
        tuning.assert_equal(load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name))


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "code"), [(lambda: os.kill(os.getpid(), signal.SIGINT), 130), (run_out_of_memory, 1)]
)
def test_whatever_ends_a_run_saves_its_steps(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: Callable[[], None],
    code: int,
) -> None:
    step = FineTuning.step

    def stopped(run: FineTuning) -> None:
        step(run)
        if run.steps_done == 2:
            stop()

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "step", stopped)
        assert main(command("run", *NO_IMAGES, "--steps", 3)) == code
    assert "stopped at step 2; continue with --resume" in capsys.readouterr().err
    assert main(command("run", *NO_IMAGES, "--steps", 3, "--resume")) == 0
    assert "from step 2" in capsys.readouterr().err


@pytest.mark.slow
def test_repairs_a_damaged_log_and_rejects_a_damaged_checkpoint(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*NO_IMAGES, "--save-every", 1, "--log-every", 1)
    assert main(command("run", *options, "--steps", 1)) == 0
    log = tmp_path / "run" / "log.jsonl"
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    log.write_bytes(log.read_bytes() + b'{"step": [\n[3]\n\xff\n{}\n{"step": null}\n')
    assert main(command("run", *options, "--steps", 2, "--resume")) == 0
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2]

    state = load_file(checkpoint)
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    name = next(name for name in state if name.startswith("average."))
    save_file({**state, name: torch.zeros(1)}, checkpoint, metadata)
    assert main(command("run", *options, "--steps", 3, "--resume")) == 1
    message = (
        r"Checkpoint 'checkpoint\.safetensors' is damaged: tensor 'average\..*' is float32 \[1\], not "
        r"float32 .*\. Choose another --out to start a new run\."
    )
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_keeps_training_when_its_folder_vanishes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = FineTuning.step
    out = tmp_path / "run"
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))

    def vanishing(run: FineTuning) -> None:
        step(run)
        if run.steps_done == 1:
            shutil.rmtree(out)
            out.touch()

    monkeypatch.setattr(FineTuning, "step", vanishing)
    every_step = ("--pictures-every", 1, "--save-every", 1, "--log-every", 1)
    one_pair = ("--validation", tiny_edits.write_folder(tmp_path / "one", 1))
    assert main(command("run", "--steps", 2, *every_step, *one_pair)) == 1
    printed = capsys.readouterr().err
    for name in ("checkpoint.safetensors", "000001.png", "log.jsonl"):
        assert len(re.findall(rf"{name}.* Training continues\.", printed)) == 1
    (kept,) = elsewhere.rglob("model_index.json")
    assert printed.endswith(f"The model was kept in {kept.parent}.\n")
    assert load_editor(kept.parent).description.reads_mask


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_skips_and_counts_unusable_pairs(
    command: Command,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    strict: bool,
) -> None:
    data = tiny_edits.write_folder(tmp_path / "pairs")
    (data / "0_before.png").write_bytes(b"no image")
    options = ("--data", data, "--steps", 3, "--batch", 1, *NO_IMAGES, *(["--strict"] if strict else []))
    assert main(command("run", *options)) == int(strict)
    assert sum("skipped: " in record.getMessage() for record in caplog.records) == 1
    assert "1 of 3 pairs could not be used and were skipped" in capsys.readouterr().err
    assert load_editor(tmp_path / "run" / "model").description.reads_mask


def test_rejects_data_without_usable_pairs(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_edits.write_folder(tmp_path / "pairs")
    images = list(data.glob("*.png"))
    assert images
    for image in images:
        image.write_bytes(b"no image")
    assert main(command("run", "--data", data, "--steps", 1)) == 1
    message = r"Data: none of the \d+ pairs can be used\. Image '.*' cannot be read"
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_starts_from_plain_stable_diffusion(
    command: Command, write_plain_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_plain_model(tmp_path / "sd")
    weights = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert main(command("run", "--model", folder, "--steps", 1, *NO_IMAGES, "--checkpointing")) == 0
    tuned = load_editor(tmp_path / "run" / "model")
    assert tuned.description.in_channels == 12
    assert tuned.description.family.name == "sd15"
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume",), "has no checkpoint to resume from. Leave --resume out."),
        (("--resolution", 60), "--resolution 60 is not a multiple of 8, the pixels of a latent"),
        (("--flip", 2), "--flip is 2.0; it is a probability, 0 to 1"),
        (
            ("--precision", "fp16"),
            "training on the CPU does not support fp16. Choose --precision bf16",
        ),
        (("--free-share", -1), "--white-mask-share is -1.0; it is a probability, 0 to 1"),
        (("--save-every", 0), "--save-every is 0; it must be 1 or more"),
        (("--model", "nowhere"), "nowhere: there is no such file or folder"),
        (("--data", "nowhere"), "Data: 'nowhere' does not exist"),
    ],
)
def test_reports_mistakes_in_one_line(
    command: Command, capsys: pytest.CaptureFixture[str], options: tuple[Any, ...], message: str
) -> None:
    assert main(command("run", *options)) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_says_how_to_install_accelerate(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert main(command("run")) == 1
    message = "instructbrush: Fine-tuning: accelerate is not installed. Run: pip install accelerate\n"
    assert capsys.readouterr().err == message


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(command: Command, tmp_path: Path) -> None:
    options = ("--steps", 2, *NO_IMAGES, "--average", 0)
    assert main(command("one", *options)) == 0
    tuning.run_in_two_processes(command("two", *options, "--batch", 1))
    one = load_file(tmp_path / "one" / "checkpoint.safetensors")
    two = load_file(tmp_path / "two" / "checkpoint.safetensors")
    assert int(two["steps_done"]) == 2
    tuning.assert_same_gradients(one, two)


def test_trains_contiguous_weights_as_files_hold_them(tmp_path: Path) -> None:
    """On a GPU the editor's convolutions are in channels_last order."""
    editor = load_editor()
    network: torch.nn.Module = editor.denoiser.unet
    network.to(memory_format=torch.channels_last)
    assert not network.conv_in.weight.is_contiguous()
    unet = prepare_model(editor, make_accelerator("no", 1), checkpointing=False)
    assert all(parameter.is_contiguous() for parameter in unet.parameters())
    unet.save_pretrained(tmp_path, safe_serialization=True)
    saved = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert torch.equal(saved["conv_in.weight"], unet.conv_in.weight)


def test_failed_save_keeps_the_older_model(
    wide_editor: DiffusersEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "mine.txt").write_text("older")
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.name == ".model.part":
            raise PermissionError(13, "Permission denied")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match=r"^'model' cannot be written to .*: Permission denied\."):
        save_model(wide_editor, POCKET_FOLDER, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine.txt"]
