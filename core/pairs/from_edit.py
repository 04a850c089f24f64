"""Pairs that are made backwards: finished images, and an edit that removes the effect from them.

An effect that is hard to add may be easy to remove. The finished image is after, its edit is before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import PairError, RegionError, StorageError
from ..regions.masks import DARKEST_GRAY, fit_mask
from ..storage.files import replaced_folder
from ..storage.image_files import save_image
from ..storage.image_tensors import to_image
from .difference import difference, unchanged
from .pairs import EditPair, EditPairs, Fit, make_pairs


@dataclass(frozen=True)
class MadePairs:
    """Pairs, and what became of each image."""

    pairs: EditPairs
    """The kept pairs, named by the numbers of their images."""
    report: tuple[str, ...]
    """A sentence about all pairs, then a line for each."""


def pairs_from_edit(
    finished: Tensor | Sequence[Tensor],
    edited: Tensor | Sequence[Tensor],
    masks: Sequence[Tensor] = (),
    threshold: float | None = None,
    share: float | None = None,
    fit: Fit = "stop",
) -> MadePairs:
    """Makes pairs with ``edited`` before and ``finished`` after, and drops those that changed too little.

    Args:
        finished: images with the effect, see ``make_pairs``.
        edited: the same images without it.
        masks: white where the effect is: one for each image, or one for all. Empty for no masks. A pair whose
            mask is black everywhere is dropped.
        threshold, share: see ``unchanged`` in core/pairs/difference.py; at most one of them. Both None drops
            no pair.
        fit: see ``make_pairs``.

    Raises:
        PairError: the images do not fit each other, a value is out of range, or no pair is left.
        RegionError: the masks do not fit the images.
    """
    made = make_pairs(edited, finished, fit=fit)
    flat = [mask for batch in masks for mask in (batch if batch.ndim == 3 else [batch])]
    pairs = _with_masks(made.pairs, flat, finished, edited, fit)
    changes = [difference(pair.before, pair.after) for pair in pairs]
    few = [False] * len(pairs)
    if threshold is not None or share is not None:
        few = list(unchanged(changes, threshold, share))
    lines, kept = [], []
    for pair, change, dropped in zip(pairs, changes, few, strict=True):
        line = f"Pair {pair.name}: mean squared difference {change:.3g}."
        if dropped:
            line += " It changed too little, so it is dropped."
        elif pair.mask is not None and pair.mask.max() < DARKEST_GRAY:
            line += " Its mask is black everywhere, so it is dropped."
        else:
            kept.append(pair)
        lines.append(line)
    if not kept:
        raise PairError(
            f"Make Pairs From Edit: none of the {len(pairs)} pairs is left. {lines[0]} Use an edit that "
            "removes more of the effect, or drop fewer pairs."
        )
    summary = f"{len(kept)} of {len(pairs)} pairs are kept."
    return MadePairs(EditPairs(tuple(kept), made.remarks), (summary, *lines))


def save_pairs(pairs: EditPairs, folder: Path) -> None:
    """Writes pairs into a new folder, as ``0_0.png`` (before), ``0_1.png`` (after) and ``0_mask.png``.

    Raises:
        StorageError: the folder exists, or cannot be written. Then nothing is left of it.
    """
    taken = StorageError(f"Folder '{folder.name}' exists already. Choose another name.")
    if folder.exists():
        raise taken
    with replaced_folder(folder) as unfinished:
        for pair in pairs:
            for name, image in ((f"{pair.name}_0", pair.before), (f"{pair.name}_1", pair.after)):
                save_image(to_image(image), unfinished / f"{name}.png")
            if pair.mask is not None:
                gray = pair.mask[..., None].repeat(1, 1, 3)
                save_image(to_image(gray).convert("L"), unfinished / f"{pair.name}_mask.png")
        if folder.exists():
            raise taken


def _with_masks(
    pairs: Sequence[EditPair],
    masks: Sequence[Tensor],
    finished: Tensor | Sequence[Tensor],
    edited: Tensor | Sequence[Tensor],
    fit: Fit,
) -> list[EditPair]:
    if not masks:
        return list(pairs)
    if len(masks) not in (1, len(pairs)):
        raise RegionError(
            f"Mask: {len(masks)} masks do not fit {len(pairs)} images. Give one for each image, or one for "
            "all."
        )
    if len(masks) == 1:
        masks = list(masks) * len(pairs)
    # A mask of the finished image is cropped and scaled as that is.
    images = [image for batch in finished for image in (batch if batch.ndim == 4 else [batch])]
    as_images = [
        _mask_of(mask, pair.after if mask.shape[-2:] == pair.after.shape[:2] else image)
        for mask, pair, image in zip(masks, pairs, images, strict=True)
    ]
    fitted = make_pairs(edited, as_images, fit=fit)
    return [replace(pair, mask=of_mask.after[..., 0]) for pair, of_mask in zip(pairs, fitted, strict=True)]


def _mask_of(mask: Tensor, image: Tensor) -> Tensor:
    """The mask as a gray image of the size of an image [H, W, 3], [1, H, W, 3] fp32 on the CPU."""
    fitted = fit_mask(mask, *image.shape[:2], batch=1).to(torch.float32).cpu()
    return fitted[..., None].repeat(1, 1, 1, 3)
