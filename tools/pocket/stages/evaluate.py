"""Measures the exported editor on unseen scenes and photographs: `python -m tools.pocket.stages.evaluate`."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from safetensors.torch import load_file
from torch.nn import functional

from ..world.drawing import COLOUR_NAMES, COLOURS, is_unseen_pair
from ..world.effects import KINDS, edit
from ..world.held_out_effects import EFFECTS
from ..world.image_grid import grid
from ..world.photos import Photos, held_out
from ..world.scenes import render, sample_scene
from ..world.tone_effects import TONE, tone_edit
from .export import TARGET
from .train_clip import EDITS, Pool
from .train_vae import FINE, psnr, to_images, to_tensor
from .training_run import WORK


def load(folder: Path) -> StableDiffusionInstructPix2PixPipeline:
    """Loads the exported folder with the diffusers pipeline, in fp32."""
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def through_vae(pipeline: StableDiffusionInstructPix2PixPipeline, images: np.ndarray) -> np.ndarray:
    """Encodes and decodes images. The result is the ceiling of every edit."""
    parts = [
        pipeline.vae.decode(pipeline.vae.encode(to_tensor(images[i : i + 16])).latents).sample
        for i in range(0, len(images), 16)
    ]
    return to_images(torch.cat(parts))


def edit_with_words(
    pipeline: StableDiffusionInstructPix2PixPipeline,
    before: np.ndarray,
    words: list[str],
    text_scale: float,
    image_scale: float,
    steps: int = 20,
) -> np.ndarray:
    """Edits images [n, 128, 128, 3] with their instructions. The seed of each image is its index."""
    parts = []
    for start in range(0, len(words), 24):
        stop = min(start + 24, len(words))
        output = pipeline(
            words[start:stop],
            image=before[start:stop],
            num_inference_steps=steps,
            guidance_scale=text_scale,
            image_guidance_scale=image_scale,
            generator=[torch.Generator().manual_seed(index) for index in range(start, stop)],
            output_type="np",
        )
        parts.append(output.images)
    return np.concatenate(parts)


def unseen_edits(each: int, seed: int = 777) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Draws images before and after, words and kinds of unseen edits.

    `each` edits of every kind, then `2 * each` unseen combinations of shape and color, then `4 * each` tone
    effects on held-out photographs.
    """
    rng = np.random.default_rng(seed)
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    words: list[str] = []
    kinds: list[str] = []
    for kind in [kind for kind in KINDS for _ in range(each)]:
        made = None
        while made is None or made.kind != kind:  # "sky" becomes "background" in a scene without a sky
            scene = sample_scene(rng, dressed=0.0)
            made = edit(scene, kind, rng, vague=False)
        before.append(render(scene))
        after.append(made.render())
        words.append(made.words)
        kinds.append(kind)
    while kinds.count("unseen pair") < 2 * each:
        scene = sample_scene(rng, 1)
        thing = scene.things[0]
        names = [name for name in COLOUR_NAMES if is_unseen_pair(thing.shape, name)]
        if names:
            name = names[rng.integers(len(names))]
            before.append(render(scene))
            after.append(render(scene.with_thing(0, colour=COLOURS[name])))
            words.append(f"make the {thing.shape} {name}")
            kinds.append("unseen pair")
    photos = held_out()
    for index in range(4 * each):
        instruction, change, _ = tone_edit(TONE[index % len(TONE)], rng, vague=False)
        before.append(photos[index % len(photos)])
        after.append(np.clip(change(photos[index % len(photos)]), 0, 1).astype(np.float32))
        words.append(instruction)
        kinds.append("photo")
    return np.stack(before), np.stack(after), words, kinds


@torch.no_grad()
def clip_retrieval(
    folder: Path, pipeline: StableDiffusionInstructPix2PixPipeline, count: int = 200
) -> dict[str, float]:
    """Returns top-1 accuracies among `count`: caption of an image, instruction of a change."""
    pool = Pool(count, 99_993, Photos(WORK / "photos"))
    projection = load_file(folder / "text_encoder" / "model.safetensors")["text_projection.weight"].float()
    shape = (1, 3, 1, 1)
    mean = torch.tensor(pipeline.feature_extractor.image_mean).view(shape)
    deviation = torch.tensor(pipeline.feature_extractor.image_std).view(shape)

    def images(pixels: torch.Tensor) -> torch.Tensor:
        normalized = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / deviation
        return functional.normalize(pipeline.image_encoder(normalized).image_embeds, dim=-1)

    rows = torch.arange(count)
    pick = rows % EDITS
    before = images(pool.pixels[rows, 0])
    after = images(pool.pixels[rows, 1 + pick])
    result = {}
    for name, features, tokens in (
        ("caption", after, pool.captions[rows, 1 + pick]),
        ("instruction", functional.normalize(after - before, dim=-1), pool.words[rows, pick]),
    ):
        text = functional.normalize(pipeline.text_encoder(tokens).pooler_output @ projection.T, dim=-1)
        best = (features @ text.T).argmax(1)
        result[name] = float((tokens[best] == tokens).all(-1).float().mean())
    return result


def report(folder: Path, each: int, scales: tuple[float, float]) -> dict[str, object]:
    """Measures and prints everything, and writes an image grid to the work folder. Returns the figures."""
    pipeline = load(folder)
    before, after, words, kinds = unseen_edits(each)
    ceiling = psnr(through_vae(pipeline, after), after)
    copy = psnr(before, after)
    real = held_out()
    photos = psnr(through_vae(pipeline, real), real)
    by_kind: dict[str, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        by_kind[kind].append(index)
    scenes = [index for index, kind in enumerate(kinds) if kind != "photo"]
    fine = {kind: round(float(ceiling[by_kind[kind]].mean()), 1) for kind in FINE}
    print(
        f"autoencoder: scenes {ceiling[scenes].mean():.2f} dB (worst {ceiling[scenes].min():.1f}), "
        f"held-out photos {photos.mean():.2f} dB"
    )
    print("  fine marks:", "  ".join(f"{kind} {value}" for kind, value in fine.items()))
    retrieval = clip_retrieval(folder, pipeline)
    print(
        f"CLIP, top-1 of 200: caption {retrieval['caption']:.1%}, instruction {retrieval['instruction']:.1%}"
    )
    began = time.monotonic()
    edited = edit_with_words(pipeline, before, words, *scales)
    scores = psnr(edited, after)
    print(f"words at s_T {scales[0]}, s_I {scales[1]}, 20 Euler-a steps ({time.monotonic() - began:.0f} s):")
    table = {}
    for kind, rows in by_kind.items():
        table[kind] = [round(float(values[rows].mean()), 1) for values in (scores, copy, ceiling)]
        reached, copied, best = table[kind]
        print(f"  {kind:12} edit {reached:5.1f}   copy {copied:5.1f}   ceiling {best:5.1f}")
    mean = [round(float(values[scenes].mean()), 2) for values in (scores, copy, ceiling)]
    better = (scores[scenes] > copy[scenes]).mean()
    print(
        f"  scenes, mean: edit {mean[0]}, copy {mean[1]}, ceiling {mean[2]}; "
        f"better than copying: {better:.1%}"
    )
    firsts = [rows[0] for rows in by_kind.values()] + by_kind["photo"][1:5]
    cells = [cell for index in firsts for cell in (before[index], after[index], edited[index])]
    cells += [np.ones_like(cells[0])] * (-len(cells) % 12)
    grid([cells[i : i + 12] for i in range(0, len(cells), 12)], WORK / "edits.png")
    return {
        "vae_scenes": round(float(ceiling[scenes].mean()), 2),
        "vae_photos": round(float(photos.mean()), 2),
        "vae_fine": fine,
        "clip": retrieval,
        "edit_copy_ceiling": mean,
        "better_than_copy": round(float(better), 3),
        "kinds": table,
    }


def report_held_out(
    folder: Path, scales: tuple[float, float], count: int = 5, seed: int = 101
) -> dict[str, list[float]]:
    """Returns edit, copy and ceiling in dB for the closest known words of every held-out effect."""
    pipeline = load(folder)
    result = {}
    for effect in EFFECTS.values():
        before, after = effect.pairs(count, seed)
        edited = edit_with_words(pipeline, before, [effect.words] * count, *scales)
        values = (psnr(edited, after), psnr(before, after), psnr(through_vae(pipeline, after), after))
        result[effect.name] = [round(float(value.mean()), 1) for value in values]
        print(f"  {effect.name:20} {effect.words:28} edit, copy, ceiling: {result[effect.name]}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=TARGET)
    parser.add_argument("--each", type=int, default=3, help="number of scenes per kind of edit")
    parser.add_argument("--text-scale", type=float, default=2.0)
    parser.add_argument("--picture-scale", type=float, default=1.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--held-out", action="store_true", help="also measure the closest known words on the held-out effects"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    guidance = (options.text_scale, options.picture_scale)
    figures = report(options.folder, options.each, guidance)
    if options.held_out:
        figures["held_out"] = report_held_out(options.folder, guidance)
    (WORK / "figures.json").write_text(json.dumps(figures, indent=1))
