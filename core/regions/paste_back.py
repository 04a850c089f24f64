"""Pastes edits into their originals, so that pixels outside the mask stay untouched."""

import torch
from torch import Tensor

from ..errors import RegionError
from ..storage.image_sizes import vae_crop
from .masks import distances_to_edge, fit_mask, mask_batch, mask_size


def paste_back(edited: Tensor, original: Tensor, mask: Tensor, feather: int = 0) -> Tensor:
    """Returns edited images with the original's pixels outside the mask.

    The result is bit-identical to the original where the mask is 0 and to the edit where it is 1; between
    them it is interpolated. Edits that were cropped to multiples of 8 go back to where they were cut (see
    ``vae_crop``), and the missing border keeps the original.

    Args:
        edited: [B, h, w, 3].
        original: [B, H, W, 3 or 4], or one for all. A fourth channel is kept unchanged.
        mask: what ``mask_batch`` accepts, with the original's aspect ratio or the edit's size.
        feather: pixels over which the mask rises from its border inwards. Pixels outside never change.

    Raises:
        RegionError: sizes or numbers of images do not match.
    """
    _check(edited, original, feather)
    batch, rows, columns, _ = edited.shape
    height, width = original.shape[1:3]
    top, left = _offset(rows, columns, height, width)
    inside = (slice(None), slice(top, top + rows), slice(left, left + columns))
    mask = mask_batch(mask).to(original.device)
    # Where the edit has no pixels the weight stays 0, so that feathering starts there.
    weight = torch.zeros(batch, height, width, device=mask.device)
    if mask_size(mask) == (rows, columns):
        weight[inside] = fit_mask(mask, rows, columns, batch)
    else:
        weight[inside] = fit_mask(mask, height, width, batch)[inside]
    weight = _feathered_inwards(weight, feather)[inside][..., None]
    pasted = original.float().repeat(batch // len(original), 1, 1, 1)
    window = pasted[inside][..., :3]
    # torch.where keeps even values that are not finite out of the original's pixels.
    window.copy_(torch.where(weight > 0, torch.lerp(window, edited.to(window), weight), window))
    return pasted


def _check(edited: Tensor, original: Tensor, feather: int) -> None:
    for name, images, channels in (("edited", edited, (3,)), ("original", original, (3, 4))):
        if images.ndim != 4 or images.shape[-1] not in channels:
            expected = " or ".join(map(str, channels))
            raise RegionError(
                f"Paste back: the {name} images have the shape {tuple(images.shape)}, "
                f"they must have [batch, height, width, {expected}]."
            )
    if feather < 0:
        raise RegionError(f"Paste back: feather is {feather}; it must be 0 or more pixels.")
    if len(original) not in (1, len(edited)):
        raise RegionError(
            f"Paste back: {len(edited)} edited images but {len(original)} originals. "
            "Give the original of each, or one for all."
        )


def _offset(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Returns top and left of the edit in the original."""
    top, left, cropped_height, cropped_width = vae_crop(height, width)
    if (rows, columns) == (height, width):
        return 0, 0
    if (rows, columns) != (cropped_height, cropped_width):
        raise RegionError(
            f"Paste back: the edited image is {columns} x {rows}, the original {width} x {height}. They must "
            "be of one size (sides cropped to multiples of 8 are put back): scale one to the other first."
        )
    return top, left


def _feathered_inwards(masks: Tensor, feather: int) -> Tensor:
    if not feather:
        return masks
    ramps = [
        torch.from_numpy(distances_to_edge((mask > 0).cpu().numpy()) / (feather + 1)).to(mask).clamp(max=1)
        for mask in masks
    ]
    return masks * torch.stack(ramps)
