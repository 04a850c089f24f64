"""The command ``finetune``: free-form editors from an editor and from plain Stable Diffusion."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from instructbrush.cli.main import main
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.finetuning.trainer import FineTuning
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.core.storage.image_tensors import to_image
from instructbrush.tests.support import tuning

Command = Callable[..., list[str]]
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def command(region_data: Path, tmp_path: Path) -> Command:
    """The command line of a short run into a folder below ``tmp_path``. Later options win."""

    def arguments(out: str, *more: object) -> list[str]:
        data = ("--model", "pocket", "--data", region_data, "--out", tmp_path / out, "--pictures-every", 0)
        training = ("--resolution", 64, "--batch", 2, "--precision", "no", "--rate", 1e-3, "--average", 0.5)
        return [str(part) for part in ("finetune", *data, *training, *more)]

    return arguments


def test_writes_a_model_that_diffusers_loads(
    command: Command, tmp_path: Path, make_image: Callable[..., Tensor]
) -> None:
    every_step = ("--pictures-every", 2, "--log-every", 1)
    assert main(command("run", "--steps", 2, *every_step, "--snr-limit", 5, "--final-rate", 1e-4)) == 0
    out = tmp_path / "run"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert [line["rate"] for line in lines] == pytest.approx([1e-3, 5.5e-4])
    assert Image.open(out / "pictures" / "000002.png").size == (3 * 64, 4 * 64), "no column shows a mask"
    tuning.assert_no_pickles(out)

    tuned = load_editor(out / "model")
    assert tuned.description.in_channels == 8
    image = torch.round(make_image(2, 64, 64) * 255) / 255
    settings = SamplingSettings(2, text_scale=3.0, seed=7)
    ours = tuned.edit(image[None], "make it night", settings)
    assert not torch.equal(ours, load_editor().edit(image[None], "make it night", settings))
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(out / "model")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "make it night",
        image=to_image(image),
        num_inference_steps=2,
        guidance_scale=3.0,
        image_guidance_scale=1.5,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images
    torch.testing.assert_close(ours.permute(0, 3, 1, 2), theirs, rtol=0, atol=2e-4)


def test_starts_from_plain_stable_diffusion_in_a_cache_folder(
    command: Command, write_plain_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The model's folder has no model_index.json, which diffusers needs."""
    folder = tmp_path / "models--maker--sd"
    source = write_plain_model(folder / "snapshots" / "1")
    assert main(command("run", "--model", folder, "--steps", 1, "--average", 0)) == 0
    tuned = load_file(tmp_path / "run" / "model" / UNET)
    start = load_file(source / UNET)
    assert tuned.keys() == start.keys()
    assert start["conv_in.weight"].shape[1] == 4
    assert tuned["conv_in.weight"].shape[1] == 8
    new_channels = tuned["conv_in.weight"][:, 4:]
    assert new_channels.any(), "they learn"
    # AdamW's first step is the learning rate.
    assert new_channels.abs().max() < 1.1e-3
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path / "run" / "model")
    assert pipeline.unet.config["in_channels"] == 8
    assert load_editor(tmp_path / "run" / "model").description.family.name == "sd15"


def test_resumed_run_equals_uninterrupted_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--steps", 3, "--final-rate", 1e-4, "--batch", 1)
    assert main(command("whole", *options)) == 0
    step = FineTuning.step

    def interrupted(run: FineTuning) -> None:
        step(run)
        if run.steps_done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "step", interrupted)
        assert main(command("parts", *options)) == 130
    message = (
        "belongs to another run: final_rate (0.0001 there, null here), steps (3 there, null here) differ"
    )
    assert main(command("parts", "--steps", 3, "--batch", 1, "--resume")) == 1
    assert message in capsys.readouterr().err
    assert main(command("parts", *options, "--resume")) == 0
    assert "from step 2" in capsys.readouterr().err
    for name in ("checkpoint.safetensors", f"model/{UNET}"):
        tuning.assert_equal(load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name))


def test_frozen_parts_and_text_stay(command: Command, tmp_path: Path) -> None:
    """Instructions are learned for keys and values, so they fit the new model too."""
    assert main(command("run", "--steps", 1, "--freeze", "keys-values", "middle", "--average", 0)) == 0
    tuned = load_file(tmp_path / "run" / "model" / UNET)
    # The built-in model is stored in half precision.
    start = {name: tensor.float() for name, tensor in load_file(POCKET_FOLDER / UNET).items()}
    same = {name for name, tensor in tuned.items() if torch.equal(tensor, start[name])}
    kept = {name for name in tuned if ".attn2.to_k." in name or ".attn2.to_v." in name}
    kept |= {name for name in tuned if name.startswith("mid_block.")}
    assert kept <= same
    assert all("bias" in name for name in same - kept), "all other weights are trained"


def test_does_not_resume_another_start(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", POCKET_FOLDER, "--steps", 1)
    assert main(command("run", *options, "--new-channels", "random")) == 0
    assert main(command("run", *options, "--resume")) == 1
    assert (
        'belongs to another run: new channels ("random" there, null here) differs' in capsys.readouterr().err
    )
    shutil.rmtree(tmp_path / "run")
    assert main(command("run", *options, "--dropout", 0.4)) == 1
    assert "dropout is 0.4; it must be from 0 to 1/3" in capsys.readouterr().err
