"""Writes the editor as a diffusers folder: `python -m tools.pocket.stages.export`.

The export uses the newest checkpoint of every stage, and random weights for a stage without a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPVisionModelWithProjection

from ..models.architecture import is_tuned, make_scheduler, make_unet, make_vae
from .train_clip import Trainee, Vision, clip_model
from .train_vae import identity_start
from .training_run import WORK, load_average

TARGET = Path(__file__).resolve().parents[3] / "core" / "models" / "pocket"
REGION_TARGET = TARGET.with_name("pocket_region")
MODEL_INDEX = {
    "_class_name": "StableDiffusionInstructPix2PixPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}


def convert_to_fp16(path: Path, extra: dict[str, torch.Tensor] | None = None) -> None:
    """Rewrites a safetensors file in fp16, adds `extra` tensors and drops position indices."""
    tensors = load_file(path)
    if path.parent.name == "text_encoder":
        # Stable Diffusion's files use this prefix, which transformers 5 drops.
        tensors = {
            f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()
        }
    tensors |= extra or {}
    half = {
        name: t.half().contiguous() if t.is_floating_point() else t
        for name, t in tensors.items()
        if not name.endswith("position_ids")
    }
    save_file(half, path, metadata={"format": "pt"})


def _load_if_trained(name: str, model: torch.nn.Module) -> int:
    return load_average(name, model) if (WORK / f"{name}.pt").exists() else 0


def _write(folder: Path) -> dict[str, int]:
    """Writes every part to `folder`. Returns the training step of each part."""
    torch.manual_seed(0)
    unet = make_unet()
    vae = make_vae()
    clip = clip_model()
    identity_start(vae)
    trainee = Trainee(clip)
    steps = {"vae": _load_if_trained("vae", vae)}
    vae.encoder.requires_grad_(False)  # the checkpoint of train_decoder contains averages of the decoder only
    steps |= {"decoder": _load_if_trained("decoder", vae), "clip": _load_if_trained("clip", trainee)}
    steps |= {"vision": _load_if_trained("vision", Vision(trainee)), "unet": _load_if_trained("unet", unet)}
    text = CLIPTextModel(clip.config.text_config)
    text.load_state_dict(clip.text_model.state_dict())
    vision = CLIPVisionModelWithProjection(clip.config.vision_config)
    vision.vision_model.load_state_dict(clip.vision_model.state_dict())
    vision.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text.save_pretrained(folder / "text_encoder")
    vision.save_pretrained(folder / "image_encoder")
    make_scheduler().save_pretrained(folder / "scheduler")
    CLIPImageProcessor(size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128}).save_pretrained(
        folder / "feature_extractor"
    )
    shutil.copytree(WORK / "tokenizer", folder / "tokenizer")
    convert_to_fp16(folder / "unet" / "diffusion_pytorch_model.safetensors")
    convert_to_fp16(folder / "vae" / "diffusion_pytorch_model.safetensors")
    convert_to_fp16(folder / "image_encoder" / "model.safetensors")
    convert_to_fp16(
        folder / "text_encoder" / "model.safetensors",
        {"text_projection.weight": clip.text_projection.weight.detach()},
    )
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    return steps


def export(target: Path = TARGET) -> dict[str, int]:
    """Writes the folder `target`. Returns the training step of each part.

    Files are written to a temporary folder and then moved, so that no process reads half a file.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pocket-") as temporary:
        steps = _write(Path(temporary))
        for path in sorted(p for p in Path(temporary).rglob("*") if p.is_file()):
            place = target / path.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(0o644)
            os.replace(path, place)
    return steps


def export_region(target: Path = REGION_TARGET) -> int:
    """Writes the region editor's UNet: configuration, and tensors that differ from the editor's, in fp16.

    Returns the bytes of the tensor file.
    """
    base = make_unet()
    wide = make_unet(in_channels=12)
    load_average("unet", base)
    for name, parameter in wide.named_parameters():
        parameter.requires_grad_(is_tuned(name))
    load_average("region", wide)
    return write_difference(wide, base.state_dict(), target / "unet").stat().st_size


def write_difference(unet: UNet2DConditionModel, base: dict[str, torch.Tensor], folder: Path) -> Path:
    """Writes the configuration of a UNet and, in fp16, the tensors that differ from `base`.

    Returns the tensor file.
    """
    tensors = {
        name: tensor.half().contiguous()
        for name, tensor in unet.state_dict().items()
        if name not in base or not torch.equal(tensor, base[name])
    }
    folder.mkdir(parents=True, exist_ok=True)
    unet.save_config(folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file(tensors, file.with_suffix(".tmp"), metadata={"format": "pt"})
    os.replace(file.with_suffix(".tmp"), file)
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("training steps:", export(options.target))
    size = sum(path.stat().st_size for path in options.target.rglob("*") if path.is_file())
    print(f"{size / 2**20:.1f} MiB in {options.target.name}")
