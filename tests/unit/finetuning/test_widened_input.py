"""Editors whose input is widened for a mask, before training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.errors import ModelError
from instructbrush.core.models.builtin import POCKET_FOLDER
from instructbrush.core.models.widening import input_channels, randomize_new_channels
from instructbrush.tests.support import seeded


def test_widened_editor_ignores_the_mask(
    editor: DiffusersEditor, wide_editor: DiffusersEditor, make_image: Callable[..., Tensor]
) -> None:
    assert wide_editor.description.in_channels == 12
    assert wide_editor.denoiser.unet.config["in_channels"] == 12
    assert wide_editor.description.fingerprint == editor.description.fingerprint
    images = make_image(1, 64, 64)[None]
    noisy = torch.randn(1, 4, 8, 8)
    timestep = torch.tensor([400])
    mask = torch.zeros(1, 64, 64)
    mask[:, 10:30, 20:50] = 1
    context = editor.encode_text(["make it darker"])
    with torch.no_grad():
        narrow = editor.denoiser.predict(noisy, timestep, editor.condition(images), context)
        white = wide_editor.denoiser.predict(noisy, timestep, wide_editor.condition(images), context)
        masked = wide_editor.denoiser.predict(noisy, timestep, wide_editor.condition(images, mask), context)
    assert torch.equal(white, masked)
    assert torch.equal(white, narrow)


def test_widened_stable_diffusion_ignores_image_and_mask(
    write_plain_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_plain_model(tmp_path / "sd")
    assert input_channels(folder) == 4
    with pytest.raises(ModelError, match="plain text-to-image model"):
        load_editor(folder)
    wide = load_editor(folder, in_channels=12)
    assert wide.description.reads_mask
    assert wide.description.family.name == "sd15"
    noisy = torch.randn(1, 4, 8, 8)
    timestep = torch.tensor([10])
    context = wide.encode_text(["x"])
    with torch.no_grad():
        zeros = wide.denoiser.predict(noisy, timestep, torch.zeros(1, 8, 8, 8), context)
        ones = wide.denoiser.predict(noisy, timestep, torch.ones(1, 8, 8, 8), context)
    assert torch.equal(zeros, ones)


def test_random_channels_are_drawn_like_a_new_convolution() -> None:
    assert input_channels(POCKET_FOLDER) == 8
    narrow = load_editor().denoiser.unet.conv_in.weight.clone()

    def widened(seed: int) -> Tensor:
        unet = load_editor(in_channels=12).denoiser.unet
        randomize_new_channels(unet, 8, seed)
        return unet.conv_in.weight.detach()

    first = widened(1)
    assert torch.equal(first[:, :8], narrow)
    assert torch.equal(first, widened(1))
    assert not torch.equal(first, widened(2))
    torch.manual_seed(0)
    expected = torch.nn.Conv2d(12, len(first), 3).weight[:, 8:].detach().abs()
    new = first[:, 8:].abs()
    assert new.max() <= (12 * 9) ** -0.5
    assert new.mean() == pytest.approx(float(expected.mean()), rel=0.05)


@pytest.mark.parametrize(
    ("channels", "message"),
    [(9, "has 9 input channels and cannot be widened to 12. "), (16, "has 16 input channels")],
)
def test_rejects_models_that_cannot_be_widened(
    write_plain_model: Callable[..., Path], tmp_path: Path, channels: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_editor(write_plain_model(tmp_path / "sd", channels), in_channels=12)


def test_rejects_single_files(tmp_path: Path) -> None:
    unet = seeded.native_unet(seeded.unet_shapes(seeded.SMALL_SD15))
    file = seeded.write_hollow(tmp_path / "one.safetensors", unet)
    message = "^one.safetensors: only a diffusers folder can be widened and fine-tuned, not a single file."
    with pytest.raises(ModelError, match=message):
        load_editor(file, in_channels=12)
