"""Trains the pocket finder, a small CLIPSeg that marks what words name in a scene.

    python -m tools.pocket.reasoning_stages.train_sight --seconds 1500
    python -m tools.pocket.reasoning_stages.train_finder --seconds 900

All parts are transformers classes, so stock loaders read the exported folder. The text tower is the editor's
and stays frozen. Training never draws held-out shapes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from ..models.architecture import CONTEXT, WIDTH
from ..models.patch_labels import load_classifier, load_tower, silhouettes
from ..models.tokenizer import tokenizer
from ..stages.export import TARGET, convert_to_fp16
from ..stages.train_clip import DEVIATION, MEAN, Trainee, clip_model
from ..stages.training_run import WORK, Run, arguments, load_average
from ..world.drawing import COLOUR_NAMES, SHAPES, SIZE, YY, box, disc
from ..world.scenes import GROUNDS, Scene, nearest_name, render, sample_scene

FINDER_TARGET = TARGET.with_name("pocket_finder")
# The nouns of all training phrases. For any other noun the model would mark the most similar thing.
KNOWN_NOUNS = (*SHAPES, "thing", "hat", "eye", "sky", "ground", "background", *GROUNDS)
# Share of phrases that name nothing in the image. Their mask is empty.
ABSENT = 0.25
# Shares of scenes with one, two and three things. Scenes with one thing do not teach shapes.
CROWD = (0.25, 0.45, 0.3)


def make_finder() -> CLIPSegForImageSegmentation:
    """Builds the model with the editor's frozen text tower."""
    words = tokenizer()
    text = clip_model().config.text_config
    # Copies the shape only, because the loaded configuration also contains a path on this machine.
    shape = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
        "hidden_act",
    )
    tower_config = load_tower().config.to_dict()
    shared = {"hidden_size": WIDTH, "num_attention_heads": 4, "hidden_act": "quick_gelu"}
    config = CLIPSegConfig(
        text_config={
            **shared,
            "vocab_size": len(words),
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.eos_token_id,
        },
        vision_config={name: tower_config[name] for name in shape},
        projection_dim=WIDTH,
        extract_layers=[0, 1, 2],
        reduce_dim=64,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=256,
        use_complex_transposed_convolution=False,
    )
    model = CLIPSegForImageSegmentation(config)
    # Starts with small logits and mostly empty masks. From large logits, training ends in always empty masks.
    nn.init.normal_(model.decoder.transposed_convolution.weight, std=0.02)
    nn.init.constant_(model.decoder.transposed_convolution.bias, -2.0)
    trainee = Trainee(clip_model())
    load_average("clip", trainee)
    model.clip.text_model.load_state_dict(trainee.clip.text_model.state_dict())
    model.clip.text_projection.load_state_dict(trainee.clip.text_projection.state_dict())
    for part in (model.clip.text_model, model.clip.text_projection):
        part.requires_grad_(False)
    return model


def _parts(scene: Scene, things: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns masks of sky, ground, background and worn items by name."""
    covered = np.any(things, axis=0) if things else np.zeros((SIZE, SIZE), bool)
    worn: dict[str, np.ndarray] = {}
    for thing, seen in zip(scene.things, things, strict=True):
        x = thing.x
        y = thing.y
        r = thing.r
        if thing.hat is not None:
            brim = y - r * 0.78
            hat = (box(x - r * 0.85, brim - 5, x + r * 0.85, brim + 1) <= 0) | (
                box(x - r * 0.5, brim - r * 0.75 - 4, x + r * 0.5, brim - 3) <= 0
            )
            worn["hat"] = worn.get("hat", np.zeros_like(covered)) | hat
        if thing.eyes:
            eyes = (disc(x - r * 0.36, y - r * 0.08, r * 0.29) <= 0) | (
                disc(x + r * 0.36, y - r * 0.08, r * 0.29) <= 0
            )
            worn["eyes"] = worn.get("eyes", np.zeros_like(covered)) | (eyes & seen)
    hats = worn.get("hat", np.zeros_like(covered))
    parts = {"background": ~covered & ~hats, **worn}
    if scene.background == "ground":
        parts |= {
            "sky": ~covered & ~hats & (scene.horizon >= YY),
            "ground": ~covered & ~hats & (scene.horizon < YY),
        }
        if scene.ground:
            parts[scene.ground] = parts["ground"]
    return parts


def sample_phrase(rng: np.random.Generator, scene: Scene) -> tuple[str, np.ndarray]:
    """Draws a phrase and the mask of what it names in the scene, bool [128, 128]."""
    things = silhouettes(scene)
    article = str(rng.choice(["the ", "a ", ""]))
    share = rng.random()
    if share < ABSENT:
        missing = [shape for shape in SHAPES if shape not in {thing.shape for thing in scene.things}]
        shape = str(rng.choice(missing))
        colour = f"{rng.choice(COLOUR_NAMES)} " if rng.random() < 0.5 else ""
        return f"{article}{colour}{shape}", np.zeros((SIZE, SIZE), bool)
    parts = _parts(scene, things)
    if share < 0.4:
        name = str(rng.choice(sorted(parts)))
        article = "" if name == "eyes" else article.replace("a ", "the ")
        return article + name, parts[name]
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    colour = nearest_name(thing.colour)
    form = rng.random()
    if form < 0.45:
        alike = [mask for other, mask in zip(scene.things, things, strict=True) if other.shape == thing.shape]
        return f"{article}{thing.shape}", np.any(alike, axis=0)
    if form < 0.8:
        return f"{article}{colour} {thing.shape}", things[index]
    alike = [
        mask for other, mask in zip(scene.things, things, strict=True) if nearest_name(other.colour) == colour
    ]
    return f"the {colour} thing", np.any(alike, axis=0)


def draw(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Draws images [n, 3, 128, 128] normalized for CLIP, phrases, and masks [n, 128, 128] in 0..1."""
    images: list[np.ndarray] = []
    phrases: list[str] = []
    masks: list[np.ndarray] = []
    for _ in range(count):
        scene = sample_scene(rng, int(rng.choice(3, p=CROWD)) + 1, dressed=0.25)
        if rng.random() < 0.25:
            thing = int(rng.integers(len(scene.things)))
            scene = scene.with_thing(thing, hat=rng.random(3).astype(np.float32))
        phrase, mask = sample_phrase(rng, scene)
        images.append(render(scene))
        phrases.append(phrase.strip())
        masks.append(mask)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return (pixels - MEAN) / DEVIATION, phrases, torch.from_numpy(np.stack(masks)).float()


def tokens(phrases: list[str]) -> torch.Tensor:
    """Returns token ids [n, 32]."""
    return tokenizer()(
        phrases, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    ).input_ids


@torch.no_grad()
def validate(model: CLIPSegForImageSegmentation, device: str) -> dict[str, float]:
    """Returns the mean IoU of phrases that name something, and the share of empty masks of the others."""
    pixels, phrases, masks = draw(np.random.default_rng(99_991), 128)
    predicted = model(input_ids=tokens(phrases).to(device), pixel_values=pixels.to(device)).logits.cpu() > 0
    truth = masks > 0.5
    named = truth.flatten(1).any(1)
    intersection = (predicted & truth).flatten(1).sum(1)[named]
    union = (predicted | truth).flatten(1).sum(1)[named]
    empty = (predicted.flatten(1).float().mean(1) < 0.002)[~named]
    return {
        "iou": round(float((intersection / union.clamp(min=1)).mean()), 4),
        "empty": round(float(empty.float().mean()), 3),
    }


def export_finder(target: Path = FINDER_TARGET) -> None:
    """Writes the averaged weights in fp16 as a folder that transformers loads."""
    model = make_finder()
    load_average("finder", model)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".finder-") as temporary:
        folder = Path(temporary)
        model.config.known_nouns = list(KNOWN_NOUNS)
        model.save_pretrained(folder)
        convert_to_fp16(folder / "model.safetensors")
        shutil.copytree(WORK / "tokenizer", folder, dirs_exist_ok=True)
        side = {"height": SIZE, "width": SIZE}
        processor = {
            "image_processor_type": "ViTImageProcessor",
            "processor_class": "CLIPSegProcessor",
            "do_resize": True,
            "size": side,
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": MEAN.flatten().tolist(),
            "image_std": DEVIATION.flatten().tolist(),
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            path.chmod(0o644)
            os.replace(path, target / path.name)


def main() -> None:
    """Trains until the budget ends."""
    options = arguments(__doc__ or "", seconds=900, batch=32, rate=1e-3)
    device = options.device
    model = make_finder()
    model.clip.vision_model.load_state_dict(load_classifier().tower.state_dict())
    model.to(device)
    run = Run("finder", model, options, decay=0.998)
    first_step = run.step
    began = time.monotonic()
    while run.share < 1:
        pixels, phrases, masks = draw(run.randomness(), options.batch)
        with torch.autocast(device, torch.bfloat16):
            logits = model(
                input_ids=tokens(phrases).to(device), pixel_values=pixels.to(device)
            ).logits.float()
        masks = masks.to(device)
        probabilities = logits.sigmoid()
        overlap = 2 * (probabilities * masks).sum((1, 2)) + 1
        dice = 1 - overlap / (probabilities.sum((1, 2)) + masks.sum((1, 2)) + 1)
        run.apply(
            functional.binary_cross_entropy_with_logits(logits, masks) + 0.3 * dice.mean(),
            warmup=200,
            floor=0.02,
        )
        if run.step % 200 == 0:
            run.swap()
            model.eval()
            figures = validate(model, device)
            model.train()
            run.swap()
            rate = (run.step - first_step) * options.batch / (time.monotonic() - began)
            run.log(rate=round(rate, 1), **figures)
            run.save()
    run.save()
    export_finder()


if __name__ == "__main__":
    main()
