"""Text-to-image models from folders: the same weights as diffusers reads; others are rejected."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModelWithProjection

from instructbrush.core.errors import ModelError
from instructbrush.core.generation.prompt_to_prompt.model import load_text_to_image
from instructbrush.tests.support.text_to_image.tiny_models import text_config, write_model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny-xl", "sdxl")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy whose files may be replaced."""
    return shutil.copytree(written, tmp_path / "tiny-xl", copy_function=lambda a, b: Path(b).hardlink_to(a))


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps({**content, **values}))


def test_reads_the_weights_that_diffusers_reads(written: Path) -> None:
    model = load_text_to_image(written)
    assert model.title == "tiny-xl" and model.is_xl and model.stride == 8
    parts = (
        (model.unet, UNet2DConditionModel, "unet"),
        (model.vae, AutoencoderKL, "vae"),
        (model.text_encoders[1], CLIPTextModelWithProjection, "text_encoder_2"),
    )
    for part, kind, name in parts:
        expected = kind.from_pretrained(written / name).state_dict()
        assert part.state_dict().keys() == expected.keys()
        assert all(torch.equal(weight, expected[key]) for key, weight in part.state_dict().items())
        assert not part.training and not any(weight.requires_grad for weight in part.parameters())
    assert [tokenizer.pad_token for tokenizer in model.tokenizers] == ["<|endoftext|>", "!"]


def test_the_null_branch_and_the_vae_follow_the_configuration(folder: Path) -> None:
    model = load_text_to_image(folder, dtype=torch.float16)
    null = model.read_nothing(2)
    assert null.pooled is not None and not null.states.any() and not null.pooled.any()
    # Halves suffice for all but the VAE.
    assert model.dtype == null.states.dtype == torch.float16 and model.vae.dtype == torch.float32
    change(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    change(folder / "vae" / "config.json", force_upcast=False)
    other = load_text_to_image(folder, dtype=torch.float16)
    null = other.read_nothing(1)
    assert null.pooled is not None and null.states.any() and null.pooled.any()
    assert other.vae.dtype == torch.float16


def test_reads_tiny_autoencoders_and_folders_of_the_cache(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "vae")
    widths, ones = (8, 8, 8, 8), (1, 1, 1, 1)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=ones,
        num_decoder_blocks=ones,
    )
    tiny.save_pretrained(folder / "vae")
    cached = tmp_path / "models--lab--tiny" / "snapshots" / "abc"
    shutil.copytree(folder, cached)
    model = load_text_to_image(tmp_path / "models--lab--tiny")
    image = torch.rand(1, 64, 64, 3)
    assert model.stride == 8 and model.title == "tiny"
    latents: Any = tiny.eval().encode(image.movedim(3, 1) * 2 - 1)
    expected = tiny.decode(latents.latents).sample / 2 + 0.5
    torch.testing.assert_close(
        model.decode(model.encode(image)), expected.detach().clamp(0, 1).movedim(1, 3), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("unet", "no folder 'unet'"),
        ("vae", "vae/config.json: missing"),
        ("text_encoder_2", "text_encoder_2/config.json: missing"),
        ("tokenizer_2", "Tokenizer: neither vocab.json"),
        ("scheduler", "scheduler/scheduler_config.json: missing"),
    ],
)
def test_rejects_incomplete_models(folder: Path, part: str, message: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=message):
        load_text_to_image(folder)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("unet", {"in_channels": 8}, "8 input channels, so it is an editor"),
        ("unet", {"time_cond_proj_dim": 256}, "time_cond_proj_dim = 256"),
        ("unet", {"block_out_channels": [16, 32]}, "configuration of its UNet"),
        ("text_encoder_2", {"projection_dim": 25}, "text_projection.weight has shape"),
        ("vae", {"latents_mean": [1, 2, 3, 4]}, "shifts latents"),
        ("scheduler", {"_class_name": "os"}, "'os' is not supported"),
        ("scheduler", {"beta_schedule": "steep"}, "scheduler_config.json cannot be used"),
    ],
)
def test_rejects_other_kinds_of_models(folder: Path, part: str, values: dict[str, Any], message: str) -> None:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    change(folder / part / name, **values)
    with pytest.raises(ModelError, match=message):
        load_text_to_image(folder)


@pytest.mark.parametrize(
    ("width", "pooled", "message"),
    [(40, 24, "states of width 72, its UNet reads 80"), (48, 25, "reads 24 pooled text states, .* gives 25")],
)
def test_rejects_text_encoders_of_other_models(folder: Path, width: int, pooled: int, message: str) -> None:
    shutil.rmtree(folder / "text_encoder_2")
    config = text_config(width)
    config.projection_dim = pooled
    CLIPTextModelWithProjection(config).save_pretrained(folder / "text_encoder_2")
    with pytest.raises(ModelError, match=message):
        load_text_to_image(folder)


def test_rejects_pickled_and_truncated_weights(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-100])
    with pytest.raises(ModelError, match="safetensors"):
        load_text_to_image(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(ModelError, match="bin files are not read"):
        load_text_to_image(folder)


def test_names_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="hf download stabilityai/sdxl-turbo"):
        load_text_to_image("stabilityai/sdxl-turbo")
