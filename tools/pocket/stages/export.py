"""Write the diffusers folder: `python -m tools.pocket.stages.export` takes the newest checkpoint of every stage (random weights where there is none)."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPVisionModelWithProjection

from ..models.architecture import make_scheduler, make_unet, make_vae, tuned
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


def halve(path: Path, extra: dict[str, torch.Tensor] | None = None) -> None:
    """Rewrite a safetensors file in fp16, with `extra` tensors; position indices are not weights and go."""
    tensors = load_file(path)
    if (
        path.parent.name == "text_encoder"
    ):  # the names that Stable Diffusion's own files have; transformers 5 would drop the prefix
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


def _trained(name: str, model: torch.nn.Module) -> int:
    return load_average(name, model) if (WORK / f"{name}.pt").exists() else 0


def _write(folder: Path) -> dict[str, int]:
    """Write every part to `folder`; return the training step of each."""
    torch.manual_seed(0)
    unet, vae, clip = make_unet(), make_vae(), clip_model()
    identity_start(vae)
    trainee = Trainee(clip)
    steps = {"vae": _trained("vae", vae)}
    vae.encoder.requires_grad_(False)  # the decoder's own stage averages the decoder alone
    steps |= {"decoder": _trained("decoder", vae), "clip": _trained("clip", trainee)}
    steps |= {"vision": _trained("vision", Vision(trainee)), "unet": _trained("unet", unet)}
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
    halve(folder / "unet" / "diffusion_pytorch_model.safetensors")
    halve(folder / "vae" / "diffusion_pytorch_model.safetensors")
    halve(folder / "image_encoder" / "model.safetensors")
    halve(
        folder / "text_encoder" / "model.safetensors",
        {"text_projection.weight": clip.text_projection.weight.detach()},
    )
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    return steps


def export(target: Path = TARGET) -> dict[str, int]:
    """Write to a temporary folder beside `target`, then move file by file, so that a reader never meets half a file."""
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
    """Write the region editor's UNet: its configuration, and the tensors that are not the editor's own, in fp16. Returns their bytes."""
    base, wide = make_unet(), make_unet(in_channels=12)
    load_average("unet", base)
    for name, parameter in wide.named_parameters():
        parameter.requires_grad_(tuned(name))
    load_average("region", wide)
    known = base.state_dict()
    own = {
        name: t.half().contiguous()
        for name, t in wide.state_dict().items()
        if name not in known or not torch.equal(t, known[name])
    }
    folder = target / "unet"
    folder.mkdir(parents=True, exist_ok=True)
    wide.save_config(folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file(own, file.with_suffix(".tmp"), metadata={"format": "pt"})
    os.replace(file.with_suffix(".tmp"), file)
    return file.stat().st_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("training steps:", export(options.target))
    size = sum(path.stat().st_size for path in options.target.rglob("*") if path.is_file())
    print(f"{size / 2**20:.1f} MiB in {options.target.name}")
