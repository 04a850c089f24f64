"""A tiny random CLIP with CLIP's vocabulary, registered with open_clip under its own name."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

ARCHITECTURE = "ViT-seeded"
NAME = f"{ARCHITECTURE}/tests"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def register(folder: Path, name: str = ARCHITECTURE, config: dict = CONFIG) -> None:
    """Registers the architecture with open_clip."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)


def reference(folder: Path, seed: int = 0) -> open_clip.model.CLIP:
    """Builds open_clip's model with random weights that are large enough for features to differ."""
    register(folder)
    torch.manual_seed(seed)
    model = open_clip.create_model(ARCHITECTURE, pretrained=None).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * parameter.shape[-1] ** -0.5)
    return model


def write(folder: Path, seed: int = 0) -> Path:
    """Writes the weights to a file with the name that the pack expects."""
    path = folder / f"{ARCHITECTURE}-tests.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            name: tensor.contiguous()
            for name, tensor in reference(folder / "configs", seed).state_dict().items()
        },
        path,
    )
    return path
