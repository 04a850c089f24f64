"""Stage 3: draw the editor's training pairs once, encode them and keep latents and words in shards.

A shard holds GROUPS images with EDITS edits each and depends on nothing but its number, so shards can be made in any order, by
several processes, and added later.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from ..models.architecture import make_vae
from ..world.pairs import sample_group
from ..world.photos import Photos
from .train_vae import to_tensor
from .training_run import WORK, load_average

GROUPS, EDITS = 250, 6
BATCH = 5
"""Groups encoded together: on CPU 35 images at once take two thirds of the time of 7."""
VALIDATION = 9_999
"""The number of the validation shard."""


def shard_path(index: int) -> Path:
    """Where shard `index` is kept."""
    return WORK / "latents" / f"{index:04d}.pt"


@torch.no_grad()
def encode(vae: AutoencoderTiny, images: np.ndarray, device: str) -> torch.Tensor:
    """Encode images [n, 128, 128, 3] in bf16: latents fp16 [n, 4, 16, 16]."""
    with torch.autocast(device, torch.bfloat16):
        return vae.encode(to_tensor(images).to(device)).latents.half().cpu().contiguous()


def make_shard(index: int, vae: AutoencoderTiny, photos: Photos, device: str = "cpu") -> None:
    """Draw, encode and write one shard: `latents` [GROUPS, 1 + EDITS, 4, 16, 16] (the image first), `words` and `kinds`."""
    rng = np.random.default_rng((31, index))
    latents, words, kinds = [], [], []
    for _ in range(GROUPS // BATCH):
        groups = [sample_group(rng, photos, EDITS) for _ in range(BATCH)]
        images = np.stack([image for group in groups for image in (group.before, *group.afters)])
        latents.append(encode(vae, images, device).unflatten(0, (BATCH, 1 + EDITS)))
        words += [group.words for group in groups]
        kinds += [group.kinds for group in groups]
    path = shard_path(index)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"latents": torch.cat(latents), "words": words, "kinds": kinds}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_shards() -> tuple[torch.Tensor, list[str], list[str]]:
    """Load every training shard: latents [groups, 1 + EDITS, 4, 16, 16] fp16, words and kinds flat (group-major)."""
    latents, words, kinds = [], [], []
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
    """Make the shards that are missing, as the command line says.

    Args:
        description: of the command.
        shards: how many by default; the validation shard comes before them.
        path_of: where a shard is kept.
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
