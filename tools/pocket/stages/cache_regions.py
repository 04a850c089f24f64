"""Region stage 1: draw and encode the region editor's training pairs, in shards as cache_latents makes them.

python -m tools.pocket.stages.cache_regions --shards 16
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from ..world.photos import Photos
from ..world.region_pairs import sample_region_pair
from .cache_latents import VALIDATION, cache, encode
from .training_run import WORK

PAIRS, BATCH = 1000, 10


def shard_path(index: int) -> Path:
    """Where shard `index` is kept."""
    return WORK / "regions" / f"{index:04d}.pt"


def make_shard(index: int, vae: AutoencoderTiny, photos: Photos, device: str = "cpu") -> None:
    """Draw, encode and write one shard: `latents` [PAIRS, 3, 4, 16, 16] (before, after, mask image), `words` and `kinds`."""
    rng = np.random.default_rng((37, index))
    latents, words, kinds = [], [], []
    for _ in range(PAIRS // BATCH):
        pairs = [sample_region_pair(rng, photos) for _ in range(BATCH)]
        masks = [np.repeat(pair.mask[..., None], 3, -1) for pair in pairs]
        images = np.stack(
            [
                side
                for pair, mask in zip(pairs, masks, strict=True)
                for side in (pair.before, pair.after, mask)
            ]
        )
        latents.append(encode(vae, images, device).unflatten(0, (BATCH, 3)))
        words += [pair.words for pair in pairs]
        kinds += [pair.kind for pair in pairs]
    path = shard_path(index)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"latents": torch.cat(latents), "words": words, "kinds": kinds}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_shards() -> tuple[torch.Tensor, list[str]]:
    """Load every training shard: latents [pairs, 3, 4, 16, 16] fp16 and words."""
    shards = [
        torch.load(path, weights_only=True)
        for path in sorted(shard_path(0).parent.glob("*.pt"))
        if path != shard_path(VALIDATION)
    ]
    return torch.cat([shard["latents"] for shard in shards]), [
        words for shard in shards for words in shard["words"]
    ]


if __name__ == "__main__":
    cache(__doc__ or "", 16, shard_path, make_shard)
