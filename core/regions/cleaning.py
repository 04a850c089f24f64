"""Checks masks against the limits of UltraEdit's code, and cleans them."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import RegionError
from .masks import BoolMask, check_mask, distances_to_edge

_SHAPES = ("fine", "hull", "box")


@dataclass(frozen=True)
class CleanSettings:
    """Limits for masks and steps of cleaning, applied in the order of the fields.

    Raises:
        RegionError: a value is out of range.
    """

    threshold: float = 0.5
    """Pixels with a value above this belong to the mask."""
    fill_holes: bool = False
    """Whether to fill the holes of the mask."""
    drop_fragments: float = 0.0
    """Fragments smaller than this fraction of the mask's area are dropped. Pixels that touch at corners are
    connected."""
    min_area: float = 0.01
    """Smallest accepted area as a fraction of the image (UltraEdit's code)."""
    max_area: float = 0.9
    """Largest accepted area as a fraction of the image (UltraEdit's code)."""
    max_fragments: int = 500
    """Largest accepted number of fragments (UltraEdit's code)."""
    shape: Literal["fine", "hull", "box"] = "fine"
    """``fine`` keeps the shape; ``hull`` and ``box`` widen fragments to their convex hull or bounding box."""
    grow: int = 0
    """Pixels by which the edge moves outwards in all directions. Negative values move it inwards, except from
    the image's border."""
    feather: int = 0
    """Pixels over which the mask falls off outside its edge, like a Gaussian. It is 1 inside and 0 beyond."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("threshold", 0, 1),
            ("drop_fragments", 0, 1),
            ("min_area", 0, 1),
            ("max_area", 0, 1),
            ("max_fragments", 1, 1_000_000),
            ("grow", -16384, 16384),
            ("feather", 0, 16384),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise RegionError(
                    f"Region settings: {name} is {value}; it must lie between {low} and {high}."
                )
        if self.min_area > self.max_area:
            raise RegionError(
                f"Region settings: min_area {self.min_area} exceeds max_area {self.max_area}, "
                "so no mask would be accepted. Swap them."
            )
        if self.shape not in _SHAPES:
            raise RegionError(
                f"Region settings: shape is '{self.shape}'; it must be one of {', '.join(_SHAPES)}."
            )


@dataclass(frozen=True)
class CleanedMask:
    """Result of cleaning a mask."""

    mask: Tensor
    """[H, W]; a refused mask is unchanged."""
    accepted: bool
    reason: str
    """A sentence for the user: ``accepted: ...`` or ``refused: ...``."""
    area: float
    """Fraction of the image after filling holes and dropping fragments, before widening. It must fit the
    limits."""
    fragments: int
    """Number of fragments at the same stage."""


def clean_mask(mask: Tensor, settings: CleanSettings) -> CleanedMask:
    """Checks a mask against the limits and cleans it. The result is binary, except where it is feathered.

    Args:
        mask: [H, W] in 0..1.
        settings: limits and steps.

    Raises:
        RegionError: see ``check_mask``.
    """
    from scipy import ndimage

    if mask.ndim != 2:
        raise RegionError(
            f"Cleaning: a mask of shape {tuple(mask.shape)} was given, "
            "it takes one at a time: [height, width]."
        )
    binary: BoolMask = check_mask(mask).cpu().numpy() > settings.threshold
    if settings.fill_holes:
        binary = np.asarray(ndimage.binary_fill_holes(binary), dtype=bool)
    labels = _labels(binary)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = sizes >= max(settings.drop_fragments * sizes.sum(), 1)
    binary = kept[labels]
    area = float(binary.mean())
    fragments = int(kept.sum())
    reason = _refusal(settings, len(sizes) - 1, area, fragments)
    shaped = binary
    if reason is None:
        shaped = _grown(_widened(binary, settings.shape), settings.grow)
        if not shaped.any():
            reason = f"shrinking it by {-settings.grow} pixels leaves nothing of it"
    if reason is not None:
        return CleanedMask(mask, False, f"refused: {reason}", area, fragments)
    plural = "s" if fragments > 1 else ""
    reason = f"accepted: covers {_percent(area)} of the image in {fragments} fragment{plural}"
    if (shaped != binary).any():
        reason += f", {_percent(float(shaped.mean()))} in its new shape"
    cleaned = torch.from_numpy(_feathered(shaped, settings.feather)).to(mask.device)
    return CleanedMask(cleaned, True, reason, area, fragments)


def _refusal(settings: CleanSettings, before: int, area: float, fragments: int) -> str | None:
    if not before:
        return f"it is empty, no value exceeds the threshold of {settings.threshold:g}"
    if not fragments:
        smallest = _percent(settings.drop_fragments)
        return f"none of its {before} fragments is {smallest} of it, and smaller ones are dropped"
    if area < settings.min_area:
        return f"covers {_percent(area)} of the image; at least {_percent(settings.min_area)} is needed"
    if area > settings.max_area:
        return f"covers {_percent(area)} of the image; at most {_percent(settings.max_area)} is allowed"
    if fragments > settings.max_fragments:
        return f"lies in {fragments} fragments; at most {settings.max_fragments} are allowed"
    return None


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def _labels(mask: BoolMask) -> Any:
    """Returns the number of its fragment for every pixel [H, W], and 0 outside."""
    from skimage import measure

    return measure.label(mask, connectivity=2)


def _widened(mask: BoolMask, shape: str) -> BoolMask:
    from skimage import measure

    if shape == "fine":
        return mask
    widened = mask.copy()
    for fragment in measure.regionprops(_labels(mask)):
        top, left, bottom, right = fragment.bbox
        widened[top:bottom, left:right] |= fragment.image_convex if shape == "hull" else True
    return widened


def _grown(mask: BoolMask, grow: int) -> BoolMask:
    """Moves the edge outwards by Euclidean distance."""
    if grow == 0:
        return mask
    return distances_to_edge(~mask) <= grow if grow > 0 else distances_to_edge(mask) > -grow


def _feathered(mask: BoolMask, feather: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    if feather == 0:
        return mask.astype(np.float32)
    distance = distances_to_edge(~mask)
    # Sigma is a third of the width, so that the Gaussian has fallen to 1 % where it is cut off.
    return np.where(distance <= feather, np.exp(-4.5 * (distance / feather) ** 2), 0).astype(np.float32)
