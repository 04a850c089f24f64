"""Single-file checkpoints match the local configurations and the same model in a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.editing.loading import load_editor
from instructbrush.core.models import module_builder
from instructbrush.core.models.module_builder import (
    TEXT_CONFIG,
    TEXT_PREFIX,
    UNET_CONFIG,
    VAE_CONFIG,
    ModuleBuilder,
    open_clip_text_weights,
)
from instructbrush.tests.support import seeded

SEED = 15
# SD1.5's layers and names, with few channels.
SMALL_UNET = {"block_out_channels": [32, 32, 64, 64]}
SMALL_VAE = {"block_out_channels": [32, 32, 32, 32]}
SMALL_TEXT = {"intermediate_size": 64, "num_hidden_layers": 2}


def outcome(editor: DiffusersEditor) -> dict[str, Tensor]:
    """Runs every part once."""
    draw = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 4, 8, 8, generator=draw)
    condition = torch.randn(1, editor.description.condition_channels, 8, 8, generator=draw)
    with torch.no_grad():
        context = editor.encode_text(["turn the hat teal"])
        return {
            "text": context,
            "prediction": editor.denoiser.predict(noisy, torch.tensor([500]), condition, context),
            "latent": editor.encode_images(torch.rand(1, 32, 32, 3, generator=draw)),
            "image": editor.decode(condition[:, :4, :4, :4]),
        }


@pytest.mark.parametrize("channels", [8, 12])
def test_sd15_is_the_same_from_a_single_file_and_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    unet = {**seeded.SD15, **SMALL_UNET, "in_channels": channels}
    vae = {**seeded.VAE, **SMALL_VAE}
    text = {**seeded.CLIP_L, **SMALL_TEXT}
    monkeypatch.setitem(UNET_CONFIG, "sd15", {**UNET_CONFIG["sd15"], **SMALL_UNET})
    monkeypatch.setitem(TEXT_CONFIG, "sd15", {**TEXT_CONFIG["sd15"], **SMALL_TEXT})
    monkeypatch.setattr(module_builder, "VAE_CONFIG", {**VAE_CONFIG, **SMALL_VAE})
    single = tmp_path / "model.safetensors"
    save_file(seeded.checkpoint(SEED, unet, torch.float16, vae, text), single)
    folder = seeded.write_folder(tmp_path / "model", SEED, unet, vae, text, torch.float16)
    seeded.write_tokenizer(folder / "tokenizer")

    from_file = load_editor(single)
    from_folder = load_editor(folder)
    assert from_file.description.sites == from_folder.description.sites
    assert len(from_file.description.sites) == 16
    assert from_file.description.in_channels == from_folder.description.in_channels == channels
    assert from_file.description.family == from_folder.description.family
    assert from_file.description.family.name == "sd15"
    assert from_file.description.fingerprint == from_folder.description.fingerprint
    expected = outcome(from_folder)
    for name, tensor in outcome(from_file).items():
        assert tensor.isfinite().all() and tensor.std() > 1e-3, name
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5, msg=name)


def write_hollow_folder(folder: Path, unet: Mapping[str, Any]) -> Path:
    """Writes a full-size diffusers folder of zeros that takes no space on the disk."""
    for part, stem, config, shapes in (
        ("unet", "diffusion_pytorch_model", unet, seeded.unet_shapes(unet)),
        ("vae", "diffusion_pytorch_model", seeded.VAE, seeded.vae_shapes(seeded.VAE)),
        ("text_encoder", "model", seeded.CLIP_L, seeded.text_shapes(seeded.CLIP_L)),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
        seeded.write_hollow(folder / part / f"{stem}.safetensors", shapes)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(seeded.SCHEDULER))
    seeded.write_tokenizer(folder / "tokenizer")
    return folder


def native_shapes(unet: Mapping[str, Any]) -> seeded.Shapes:
    """Shapes of a full-size single-file checkpoint of SD1.5."""
    shapes = {
        f"model.diffusion_model.{name}": shape
        for name, shape in seeded.native_unet(seeded.unet_shapes(unet)).items()
    }
    for name, shape in seeded.vae_shapes(seeded.VAE).items():
        native = seeded.native_vae_name(name)
        matrix = ".mid.attn_1." in native and len(shape) == 2
        shapes[f"first_stage_model.{native}"] = (*shape, 1, 1) if matrix else shape
    for name, shape in seeded.text_shapes(seeded.CLIP_L).items():
        shapes[f"cond_stage_model.transformer.{name}"] = shape
    return shapes


def part_shapes(editor: DiffusersEditor) -> dict[str, seeded.Shapes]:
    parts = {"unet": editor.denoiser.unet, "vae": editor.vae, "text encoder": editor.text_encoder}
    return {name: seeded.shapes_of(part) for name, part in parts.items()}


@pytest.mark.parametrize("channels", [8, 12])
def test_loads_full_size_sd15_from_a_single_file_and_a_folder(tmp_path: Path, channels: int) -> None:
    """In fp16 the weights stay mapped from the files, so that 2 GB each take no memory."""
    unet = {**seeded.SD15, "in_channels": channels}
    single = seeded.write_hollow(tmp_path / "model.safetensors", native_shapes(unet))
    assert single.stat().st_size > 2_000_000_000
    from_file = load_editor(single, dtype=torch.float16)
    from_folder = load_editor(write_hollow_folder(tmp_path / "model", unet), dtype=torch.float16)
    assert from_file.description.in_channels == channels
    assert from_file.description.sites == from_folder.description.sites
    assert from_file.description.fingerprint == from_folder.description.fingerprint
    assert part_shapes(from_file) == part_shapes(from_folder)


def test_sd2_text_tower_matches_open_clips_penultimate_layer() -> None:
    from open_clip.transformer import TextTransformer

    width = 64
    prefix = TEXT_PREFIX["sd21"]
    tower = TextTransformer(
        context_length=16, vocab_size=50, width=width, heads=4, layers=3, output_dim=width
    ).eval()
    state = {prefix + name: tensor for name, tensor in tower.state_dict().items()}
    config = {
        **TEXT_CONFIG["sd21"],
        "vocab_size": 50,
        "max_position_embeddings": 16,
        "hidden_size": width,
        "num_attention_heads": 4,
    }
    config |= {"num_hidden_layers": 2, "intermediate_size": 4 * width}
    ours = ModuleBuilder("it", torch.device("cpu"), torch.float32).text_encoder(
        config, open_clip_text_weights(state, prefix, width)
    )
    ids = torch.randint(1, 49, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = tower.token_embedding(ids) + tower.positional_embedding
        for block in tower.transformer.resblocks[:-1]:
            states = block(states, attn_mask=tower.attn_mask)
        torch.testing.assert_close(ours(ids)[0], tower.ln_final(states), rtol=1e-4, atol=1e-5)


def test_sd21_single_file_shapes_match_the_local_configuration() -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    shapes = seeded.unet_shapes(seeded.SD21)
    native = {
        f"model.diffusion_model.{name}": torch.empty(shape, device="meta")
        for name, shape in seeded.native_unet(shapes).items()
    }
    converted = convert_ldm_unet_checkpoint(native, UNET_CONFIG["sd21"])
    assert (
        {name: tuple(tensor.shape) for name, tensor in converted.items()}
        == seeded.unet_shapes(UNET_CONFIG["sd21"])
        == shapes
    )
    vae = {
        f"first_stage_model.{seeded.native_vae_name(name)}": torch.empty(shape, device="meta")
        for name, shape in seeded.vae_shapes(seeded.VAE).items()
    }
    assert set(convert_ldm_vae_checkpoint(vae, VAE_CONFIG)) == set(seeded.vae_shapes(VAE_CONFIG))
