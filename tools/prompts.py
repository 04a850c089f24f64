"""Builds prompts (ComfyUI's API format) in Python, for the demo, the GPU check and the end-to-end tests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STEPS = 20
# Inputs of Learn Instruction that a preset overrides.
LEARNING_INPUTS = {
    "tokens": 16,
    "segments": 5,
    "segment_mode": "shared",
    "steps": 400,
    "learning_rate": 0.06,
    "objective": "plain",
    "seed": 0,
    "hold_out": 0,
}


class Prompt:
    """A prompt, built node by node. `nodes` is what ComfyUI's API takes."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, **inputs: Any) -> list[Any]:
        """Adds a node. Returns the link to its first output; further outputs are `[link[0], 1]` and so on."""
        name = str(len(self.nodes) + 1)
        self.nodes[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}
        return [name, 0]

    def images(self, names: Sequence[str]) -> list[Any]:
        """Adds one IMAGE batch of several files in the input folder."""
        links = [self.add("LoadImage", image=name) for name in names]
        batch = links[0]
        for link in links[1:]:
            batch = self.add("ImageBatch", image1=batch, image2=link)
        return batch


class EditPrompt(Prompt):
    """A prompt with a base model and edits by it. `model`, `clip` and `vae` are links."""

    def __init__(self, model: str = "pocket editor (built in)") -> None:
        super().__init__()
        self.model = self.add("InstructBrushLoadModel", model_name=model)
        self.clip = [self.model[0], 1]
        self.vae = [self.model[0], 2]

    def guider(self, images: list[Any], model: list[Any] | None = None, **inputs: Any) -> list[Any]:
        """Adds Edit Guider with the default scales and strength."""
        settings = {"words": "", "text_scale": -1.0, "image_scale": 1.5, "strength": 1.0, **inputs}
        return self.add(
            "InstructBrushEditGuider",
            model=model or self.model,
            clip=self.clip,
            vae=self.vae,
            image=images,
            **settings,
        )

    def sample(
        self,
        guider: list[Any],
        *,
        latent: list[Any] | None = None,
        model: list[Any] | None = None,
        steps: int = STEPS,
    ) -> list[Any]:
        """Adds Euler ancestral sampling with noise seed 1 and VAE Decode. `latent`: default the guider's."""
        noise = self.add("RandomNoise", noise_seed=1)
        sampler = self.add("KSamplerSelect", sampler_name="euler_ancestral")
        sigmas = self.add(
            "BasicScheduler", model=model or self.model, scheduler="normal", steps=steps, denoise=1.0
        )
        sampled = self.add(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=latent or [guider[0], 1],
        )
        return self.add("VAEDecode", samples=sampled, vae=self.vae)


def save_images(folder: Path, images: np.ndarray, name: str = "{}.png") -> list[str]:
    """Writes uint8 images [n, H, W, 3]. Returns their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name.format(index) for index in range(len(images))]
    for file, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / file)
    return names


def to_8bit(images: np.ndarray) -> np.ndarray:
    """Converts images in 0..1 to uint8."""
    return (images * 255).round().astype(np.uint8)


def read_image(png: bytes) -> np.ndarray:
    """Decodes a PNG to uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
