"""Region stage 1 draws and encodes the region editor's training pairs, in shards like those of cache_latents.

python -m tools.pocket.stages.cache_regions --shards 16
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from ..world.photos import Photos
from ..world.region_pairs import sample_region_pair
from .cache_latents import VALIDATION, cache, encode, write_shard
from .training_run import WORK

PAIRS = 1000
BATCH = 10


def shard_path(index: int) -> Path:
    """Returns the path of shard `index`."""
    return WORK / "regions" / f"{index:04d}.pt"


def make_shard(index: int, vae: AutoencoderTiny, photos: Photos, device: str = "cpu") -> None:
    """Draws, encodes and writes one shard.

    It contains `latents` [PAIRS, 3, 4, 16, 16] (before, after, mask image), `words` and `kinds`.
    """
    rng = np.random.default_rng((37, index))
    latents: list[torch.Tensor] = []
    words: list[str] = []
    kinds: list[str] = []
    for _ in range(PAIRS // BATCH):
        pairs = [sample_region_pair(rng, photos) for _ in range(BATCH)]
        images: list[np.ndarray] = []
        for pair in pairs:
            images += [pair.before, pair.after, np.repeat(pair.mask[..., None], 3, -1)]
        latents.append(encode(vae, np.stack(images), device).unflatten(0, (BATCH, 3)))
        words += [pair.words for pair in pairs]
        kinds += [pair.kind for pair in pairs]
    write_shard(shard_path(index), {"latents": torch.cat(latents), "words": words, "kinds": kinds})


def load_shards() -> tuple[torch.Tensor, list[str]]:
    """Loads all training shards: latents fp16 [pairs, 3, 4, 16, 16] and words."""
    shards = [
        torch.load(path, weights_only=True)
        for path in sorted(shard_path(0).parent.glob("*.pt"))
        if path != shard_path(VALIDATION)
    ]
    words = [text for shard in shards for text in shard["words"]]
    return torch.cat([shard["latents"] for shard in shards]), words


if __name__ == "__main__":
    cache(__doc__ or "", 16, shard_path, make_shard)
