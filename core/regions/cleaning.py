"""Judging masks by UltraEdit's limits, and cleaning them."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import RegionError
from .masks import Bits, check_mask, depths

_SHAPES = ("fine", "hull", "box")


@dataclass(frozen=True)
class CleanSettings:
    """What is asked of a mask, and what is made of it, in the order of the fields.

    Raises:
        RegionError: a value is out of its range.
    """

    threshold: float = 0.5
    """A pixel belongs to the mask if its value is above this."""
    fill_holes: bool = False
    """Whether holes that the mask encloses belong to it."""
    drop_fragments: float = 0.0
    """Fragments smaller than this fraction of the mask's own area are dropped. A fragment's pixels touch, also at corners."""
    min_area: float = 0.01
    """Least area that is accepted, as a fraction of the image (UltraEdit's limit)."""
    max_area: float = 0.9
    """Largest area that is accepted, as a fraction of the image (UltraEdit's limit)."""
    max_fragments: int = 500
    """Most fragments that are accepted (UltraEdit's limit)."""
    shape: Literal["fine", "hull", "box"] = "fine"
    """``fine`` as it is; ``hull`` and ``box`` widen every fragment to its filled convex hull or its bounding box."""
    grow: int = 0
    """Pixels that the edge is moved outwards, in every direction alike; negative moves it inwards, except from the image's border."""
    feather: int = 0
    """Pixels over which the mask falls off outside its edge, like a Gaussian. Inside it stays 1, further outside it stays 0."""

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
                    f"Region settings: {name} is {value}, it must lie between {low} and {high}."
                )
        if self.min_area > self.max_area:
            raise RegionError(
                f"Region settings: min_area {self.min_area} exceeds max_area {self.max_area}, so no mask would be accepted. Swap them."
            )
        if self.shape not in _SHAPES:
            raise RegionError(
                f"Region settings: shape is '{self.shape}', it must be one of {', '.join(_SHAPES)}."
            )


@dataclass(frozen=True)
class CleanedMask:
    """What became of a mask."""

    mask: Tensor
    """[H, W]; of a refused one, as it came."""
    accepted: bool
    reason: str
    """For people: ``accepted: ...`` or ``refused: ...``."""
    area: float
    """Fraction of the image that was compared with the limits: after holes were filled and fragments dropped, before widening."""
    fragments: int
    """Number of fragments at the same moment."""


def clean_mask(mask: Tensor, settings: CleanSettings) -> CleanedMask:
    """Judge a mask by UltraEdit's limits and clean it. The result is 0 and 1, except where it is feathered.

    Args:
        mask: [H, W] in 0..1.

    Raises:
        RegionError: see :func:`check_mask`.
    """
    from scipy import ndimage

    if mask.ndim != 2:
        raise RegionError(
            f"Cleaning: a mask of shape {tuple(mask.shape)} was given, it takes one at a time: [height, width]."
        )
    found: Bits = check_mask(mask).cpu().numpy() > settings.threshold
    if settings.fill_holes:
        found = np.asarray(ndimage.binary_fill_holes(found), dtype=bool)
    labels = _labels(found)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = sizes >= max(settings.drop_fragments * sizes.sum(), 1)
    found = kept[labels]
    area, fragments = float(found.mean()), int(kept.sum())
    reason = _refusal(settings, len(sizes) - 1, area, fragments)
    shaped = found
    if reason is None:
        shaped = _moved(_widened(found, settings.shape), settings.grow)
        if not shaped.any():
            reason = f"shrinking it by {-settings.grow} pixels leaves nothing of it"
    if reason is not None:
        return CleanedMask(mask, False, f"refused: {reason}", area, fragments)
    reason = f"accepted: covers {_percent(area)} of the image in {fragments} fragment{'s' if fragments > 1 else ''}"
    if (shaped != found).any():
        reason += f", {_percent(float(shaped.mean()))} in its new shape"
    return CleanedMask(
        torch.from_numpy(_feathered(shaped, settings.feather)).to(mask.device), True, reason, area, fragments
    )


def _refusal(settings: CleanSettings, before: int, area: float, fragments: int) -> str | None:
    if not before:
        return f"it is empty, no value exceeds the threshold of {settings.threshold:g}"
    if not fragments:
        return f"none of its {before} fragments is {_percent(settings.drop_fragments)} of it, and smaller ones are dropped"
    if area < settings.min_area:
        return f"covers {_percent(area)} of the image, at least {_percent(settings.min_area)} is needed"
    if area > settings.max_area:
        return f"covers {_percent(area)} of the image, at most {_percent(settings.max_area)} is allowed"
    if fragments > settings.max_fragments:
        return f"lies in {fragments} fragments, at most {settings.max_fragments} are allowed"
    return None


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def _labels(found: Bits) -> Any:
    """The number of its fragment on every pixel, 0 where there is none, [H, W]."""
    from skimage import measure

    return measure.label(found, connectivity=2)


def _widened(found: Bits, shape: str) -> Bits:
    from skimage import measure

    widened = found.copy()
    for fragment in measure.regionprops(_labels(found)) if shape != "fine" else ():
        top, left, bottom, right = fragment.bbox
        widened[top:bottom, left:right] |= fragment.image_convex if shape == "hull" else True
    return widened


def _moved(found: Bits, grow: int) -> Bits:
    """The edge moved by Euclidean distance."""
    if grow == 0:
        return found
    return depths(~found) <= grow if grow > 0 else depths(found) > -grow


def _feathered(found: Bits, feather: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    if feather == 0:
        return found.astype(np.float32)
    distance = depths(~found)
    # A third of the width as sigma: where it is cut off it has come down to 1 %.
    return np.where(distance <= feather, np.exp(-4.5 * (distance / feather) ** 2), 0).astype(np.float32)
