"""Stage 3 draws the editor's training pairs once, encodes them, and stores latents and words in shards.

A shard contains GROUPS images with EDITS edits each. It depends only on its number, so shards can be made in
any order, by several processes, and added later.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny

from ..models.architecture import make_vae
from ..world.pairs import sample_group
from ..world.photos import Photos
from .train_vae import to_tensor
from .training_run import WORK, load_average

GROUPS = 250
EDITS = 6
# Groups encoded together. On CPU, an image in a batch of 35 takes two thirds of the time in a batch of 7.
BATCH = 5
# Number of the validation shard.
VALIDATION = 9_999


def shard_path(index: int) -> Path:
    """Returns the path of shard `index`."""
    return WORK / "latents" / f"{index:04d}.pt"


@torch.no_grad()
def encode(vae: AutoencoderTiny, images: np.ndarray, device: str) -> torch.Tensor:
    """Encodes images [n, 128, 128, 3] in bf16 to latents fp16 [n, 4, 16, 16]."""
    with torch.autocast(device, torch.bfloat16):
        return vae.encode(to_tensor(images).to(device)).latents.half().cpu().contiguous()


def make_shard(index: int, vae: AutoencoderTiny, photos: Photos, device: str = "cpu") -> None:
    """Draws, encodes and writes one shard.

    It contains `latents` [GROUPS, 1 + EDITS, 4, 16, 16] (the unedited image first), `words` and `kinds`.
    """
    rng = np.random.default_rng((31, index))
    latents: list[torch.Tensor] = []
    words: list[tuple[str, ...]] = []
    kinds: list[tuple[str, ...]] = []
    for _ in range(GROUPS // BATCH):
        groups = [sample_group(rng, photos, EDITS) for _ in range(BATCH)]
        images = np.stack([image for group in groups for image in (group.before, *group.afters)])
        latents.append(encode(vae, images, device).unflatten(0, (BATCH, 1 + EDITS)))
        words += [group.words for group in groups]
        kinds += [group.kinds for group in groups]
    write_shard(shard_path(index), {"latents": torch.cat(latents), "words": words, "kinds": kinds})


def write_shard(path: Path, shard: dict[str, Any]) -> None:
    """Writes a shard atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(shard, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_shards() -> tuple[torch.Tensor, list[str], list[str]]:
    """Loads all training shards: latents fp16 [groups, 1 + EDITS, 4, 16, 16], flat words and flat kinds."""
    latents: list[torch.Tensor] = []
    words: list[str] = []
    kinds: list[str] = []
    for path in sorted(shard_path(0).parent.glob("*.pt")):
        if path == shard_path(VALIDATION):
            continue
        shard = torch.load(path, weights_only=True)
        latents.append(shard["latents"])
        words += [text for group in shard["words"] for text in group]
        kinds += [kind for group in shard["kinds"] for kind in group]
    return torch.cat(latents), words, kinds


def cache(
    description: str,
    shards: int,
    path_of: Callable[[int], Path],
    make: Callable[[int, AutoencoderTiny, Photos, str], None],
) -> None:
    """Runs the command line that makes missing shards, the validation shard first.

    Args:
        description: description of the command.
        shards: default number of shards.
        path_of: returns the path of a shard.
        make: draws, encodes and writes one shard.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shards", type=int, default=shards)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    vae = make_vae()
    load_average("vae", vae)
    vae.to(options.device, memory_format=torch.channels_last).requires_grad_(False)
    photos = Photos(WORK / "photos")
    for number in [VALIDATION, *range(options.start, options.start + options.shards)]:
        if not path_of(number).exists():
            began = time.monotonic()
            make(number, vae, photos, options.device)
            print(f"shard {number}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    cache(__doc__ or "", 50, shard_path, make_shard)
