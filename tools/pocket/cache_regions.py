"""Region stage 1: draw and encode the region editor's training pairs, in shards as cache_latents makes them.

    python -m tools.pocket.cache_regions --shards 16
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from .architecture import make_vae
from .cache_latents import VALIDATION, encode
from .photos import Photos
from .regions import sample_region_pair
from .running import WORK, load_average

PAIRS, BATCH = 1000, 10


def shard_path(index: int) -> Path:
    """Where shard `index` is kept."""
    return WORK / "regions" / f"{index:04d}.pt"


def make_shard(index: int, vae: AutoencoderTiny, photos: Photos, device: str = "cpu") -> None:
    """Draw, encode and write one shard: `latents` [PAIRS, 3, 4, 16, 16] (before, after, mask picture), `words` and `kinds`."""
    rng = np.random.default_rng((37, index))
    latents, words, kinds = [], [], []
    for _ in range(PAIRS // BATCH):
        pairs = [sample_region_pair(rng, photos) for _ in range(BATCH)]
        masks = [np.repeat(pair.mask[..., None], 3, -1) for pair in pairs]
        pictures = np.stack([side for pair, mask in zip(pairs, masks, strict=True) for side in (pair.before, pair.after, mask)])
        latents.append(encode(vae, pictures, device).unflatten(0, (BATCH, 3)))
        words += [pair.words for pair in pairs]
        kinds += [pair.kind for pair in pairs]
    path = shard_path(index)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"latents": torch.cat(latents), "words": words, "kinds": kinds}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_shards() -> tuple[torch.Tensor, list[str]]:
    """Load every training shard: latents [pairs, 3, 4, 16, 16] fp16 and words."""
    shards = [torch.load(path, weights_only=True) for path in sorted(shard_path(0).parent.glob("*.pt")) if path != shard_path(VALIDATION)]
    return torch.cat([shard["latents"] for shard in shards]), [words for shard in shards for words in shard["words"]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = make_vae()
    load_average("vae", model)
    model.to(options.device, memory_format=torch.channels_last).requires_grad_(False)
    real = Photos(WORK / "photos")
    for number in [VALIDATION, *range(options.start, options.start + options.shards)]:
        if not shard_path(number).exists():
            began = time.monotonic()
            make_shard(number, model, real, options.device)
            print(f"shard {number}: {time.monotonic() - began:.0f} s", flush=True)
