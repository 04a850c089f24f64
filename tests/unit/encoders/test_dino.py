"""DINO from a local folder: features equal those of transformers; invalid folders are rejected."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.transforms import functional as transforms
from transformers import AutoModel

from instructbrush.core.encoders.clip import image_features
from instructbrush.core.encoders.dino import DinoModel
from instructbrush.core.errors import ModelError
from instructbrush.tests.support.tiny_benchmarks import write_dino


@pytest.mark.parametrize(("kind", "crop"), [("vit", 56), ("dinov2", 224)])
def test_features_match_magicbrush_evaluation(tmp_path: Path, kind: str, crop: int) -> None:
    folder = write_dino(tmp_path / "tiny", kind)
    dino = DinoModel(folder)
    reference = AutoModel.from_pretrained(folder).eval()
    image = torch.rand(90, 120, 3, generator=torch.Generator().manual_seed(1))
    pixels = transforms.resize(
        image.movedim(2, 0), crop * 256 // 224, transforms.InterpolationMode.BICUBIC, antialias=True
    ).clamp(0, 1)
    pixels = transforms.normalize(
        transforms.center_crop(pixels, [crop, crop]), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        expected = reference(pixels[None]).last_hidden_state[:, 0]
    torch.testing.assert_close(dino.encode_images(image[None]), expected, rtol=1e-4, atol=1e-5)
    features = image_features(dino, [image, image[:40]])
    assert features.shape == (2, 32) and torch.allclose(features.norm(dim=1), torch.ones(2))


def test_ignores_a_pooler_and_fingerprints_weights(tmp_path: Path) -> None:
    folder = write_dino(tmp_path / "tiny")
    first = DinoModel(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "pooler.dense.weight": torch.zeros(32, 32), "pooler.dense.bias": torch.zeros(32)},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert DinoModel(folder).fingerprint == first.fingerprint and first.name == "tiny"
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, folder / "model.safetensors", {"format": "pt"})
    assert DinoModel(folder).fingerprint != first.fingerprint


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if name != "layernorm.weight"},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "DINO 'tiny': config.json is missing."),
        (
            lambda folder: change_config(folder, model_type="clip"),
            "DINO 'tiny': its config.json says 'clip', which is not a DINO (vit, dinov2, ",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "there is no model.safetensors in"),
        (pickle_weights, "pytorch_model.bin: .bin files are not read, only .safetensors."),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(bytes(4)),
            "model.safetensors: the file is cut short",
        ),
        (lambda folder: change_config(folder, hidden_size=64), "DINO 'tiny': transformers cannot load"),
        (drop_weight, "DINO 'tiny': 1 weights such as layernorm.weight are missing in"),
    ],
)
def test_rejects_what_is_not_a_dino(tmp_path: Path, change: Callable[[Path], Any], message: str) -> None:
    folder = write_dino(tmp_path / "tiny")
    change(folder)
    with pytest.raises(ModelError, match=re.escape(message)):
        DinoModel(folder)


def test_error_tells_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError,
        match="Put facebook/dino-vits16, or another model of its kind, into .*: config.json, "
        "model.safetensors. Nothing is downloaded automatically.",
    ):
        DinoModel(tmp_path / "none")
