"""CONDITIONING for several regions of an image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....core.regions.masks import combine_masks, fit_mask, mask_batch
from .instruction_patch import Conditioning

# Weight of all regions in places that no region covers.
_UNCOVERED_WEIGHT = 1e-3


def combine_regions(
    regions: Sequence[tuple[Conditioning, Tensor]], rest: Conditioning | None
) -> tuple[Conditioning, Tensor]:
    """Combines the conditionings of several regions for one sampling pass.

    Masks every entry as the defaults of ComfyUI's Conditioning (Set Mask) do. An entry that already has a
    mask acts where both masks do.

    ComfyUI averages the predictions of the entries, weighted by their masks. Where all weights are 0 it
    predicts a latent of zeros, which the model sees in the next step. So without ``rest``, all regions share
    the places that none of them covers.

    Args:
        regions: conditionings and their masks [B or 1, H, W] in 0..1, all of one size. They are not changed.
        rest: conditioning for the places outside the regions.

    Returns:
        The CONDITIONING, and the union of the regions [B, H, W].

    Raises:
        RegionError: an entry's own mask does not fit its region's mask.
    """
    # With --gpu-only the masks of images are on the GPU, those of finders are not.
    device = regions[0][1].device
    entries = [_masked(entry, mask.to(device)) for conditioning, mask in regions for entry in conditioning]
    union = combine_masks([options["mask"] for _, options in entries])
    if rest is not None:
        return [*entries, *(_masked(entry, 1 - union) for entry in rest)], union
    return [
        [states, {**options, "mask": torch.where(union == 0, _UNCOVERED_WEIGHT, options["mask"])}]
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
