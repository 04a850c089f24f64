"""CONDITIONING that acts in parts of the image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....core.regions.masks import combine_masks, fit_mask, mask_batch
from .instruction_patch import Conditioning

_SHARE = 1e-3
"""Weight of every region where none lies."""


def combine_regions(
    regions: Sequence[tuple[Conditioning, Tensor]], rest: Conditioning | None
) -> tuple[Conditioning, Tensor]:
    """Several regions with a conditioning each, for one pass. Entries are masked as ComfyUI's Conditioning (Set Mask) does by default; one that has a mask
    already acts where both masks do.

    ComfyUI mixes what the entries predict, weighted by their masks and divided by the sum of the weights. Where that sum is 0 it predicts nothing at
    all (a latent of zeros), and the model sees that at its next step. So without a ``rest``, all regions share what none of them covers.

    Args:
        regions: conditionings, left as they are, and their masks [B, H, W] in 0..1, all of one size; of a batch or single.
        rest: acts where the regions leave room.

    Returns:
        The CONDITIONING, and the union of the regions [B, H, W].

    Raises:
        RegionError: an entry's own mask does not fit the region's.
    """
    entries = [_masked(entry, mask) for conditioning, mask in regions for entry in conditioning]
    union = combine_masks([options["mask"] for _, options in entries])
    if rest is not None:
        return [*entries, *(_masked(entry, 1 - union) for entry in rest)], union
    return [
        [states, {**options, "mask": torch.where(union == 0, _SHARE, options["mask"])}]
        for states, options in entries
    ], union


def _masked(entry: list[Any], mask: Tensor) -> list[Any]:
    states, options = entry
    own = options.get("mask")
    if own is not None:
        own = mask_batch(own).to(mask.device)
        height, width = mask.shape[-2:]
        mask = torch.minimum(mask, fit_mask(own, height, width, max(len(own), len(mask))))
    return [states, {"set_area_to_bounds": False, "mask_strength": 1.0, **options, "mask": mask}]
