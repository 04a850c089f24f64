"""Training pairs of the region editor: an image, a mask, words, and the image after an edit in the mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .drawing import SIZE, XX, YY, disc, shape_distance
from .effects import LOCAL, edit
from .photos import Photos
from .scenes import Scene, render, sample_scene
from .tone_effects import TONE, tone_edit

# Pixels that change by less do not count as edited.
VISIBLE = 0.04
# Share of pairs with a local edit, and of pairs with a photograph.
LOCAL_SHARE = 0.75
PHOTO_SHARE = 0.12


@dataclass(frozen=True)
class RegionPair:
    """Images are float32 [128, 128, 3] in 0..1. The mask is float32 [128, 128], 1 where the edit may act."""

    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray
    words: str
    kind: str


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns the pixels that an edit changes, bool [128, 128]."""
    return np.abs(after - before).max(-1) > VISIBLE


def mask_around(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a mask like those of people and segmenters: outline with a margin, box or ellipse."""
    margin = int(rng.integers(2, 9))
    rows, columns = np.nonzero(region)
    top = rows.min() - margin
    bottom = rows.max() + margin
    left = columns.min() - margin
    right = columns.max() + margin
    form = rng.random()
    if form < 0.5:
        filled = ndimage.binary_fill_holes(region)
        return ndimage.binary_dilation(filled, iterations=margin).astype(np.float32)
    if form < 0.8:
        return ((top <= YY) & (bottom >= YY) & (left <= XX) & (right >= XX)).astype(np.float32)
    middle_y = (top + bottom) / 2
    middle_x = (left + right) / 2
    reach_y = (bottom - top) / 2 * 1.42 + 1
    reach_x = (right - left) / 2 * 1.42 + 1
    ellipse = ((YY - middle_y) / reach_y) ** 2 + ((XX - middle_x) / reach_x) ** 2 <= 1
    return ellipse.astype(np.float32)


def any_region(scene: Scene | None, rng: np.random.Generator) -> np.ndarray:
    """Returns a region for an edit that can act anywhere: a thing, a disc, a box or one side of the image."""
    form = rng.random()
    if scene is not None and scene.things and form < 0.4:
        thing = scene.things[rng.integers(len(scene.things))]
        return mask_around(shape_distance(thing.shape, thing.x, thing.y, thing.r) <= 0, rng)
    if form < 0.6:
        return (disc(rng.uniform(25, 103), rng.uniform(25, 103), rng.uniform(18, 45)) <= 0).astype(np.float32)
    if form < 0.85:
        left, top = rng.integers(0, 72, 2)
        width, height = rng.integers(32, 97, 2)
        return ((left <= XX) & (left + width >= XX) & (top <= YY) & (top + height >= YY)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    side = np.cos(angle) * (XX - SIZE / 2) + np.sin(angle) * (YY - SIZE / 2) <= rng.uniform(-25, 25)
    return side.astype(np.float32)


def _point_at(words: str, scene: Scene, rng: np.random.Generator) -> str:
    """Half of the time "the circle" becomes "it", because the mask shows which thing is meant."""
    if rng.random() < 0.5:
        for thing in scene.things:
            words = words.replace(f"the {thing.shape}", "it")
    return words


def local_pair(
    rng: np.random.Generator, scene: Scene, kind: str, vague: bool | None = None
) -> RegionPair | None:
    """Returns a local edit of a scene with a mask around the change, or None where the edit is impossible."""
    made = edit(scene, kind, rng, vague)
    if made is None:
        return None
    before = render(scene)
    after = made.render()
    region = changed(before, after)
    if region.sum() < 30:
        return None
    return RegionPair(before, after, mask_around(region, rng), _point_at(made.words, scene, rng), kind)


def sample_region_pair(rng: np.random.Generator, photos: Photos) -> RegionPair:
    """Draws a local edit with its mask, or a tone effect within a region."""
    while True:
        if rng.random() < LOCAL_SHARE:
            made = local_pair(rng, sample_scene(rng), str(rng.choice(LOCAL)))
            if made is not None:
                return made
            continue
        scene = None if rng.random() < PHOTO_SHARE / (1 - LOCAL_SHARE) else sample_scene(rng)
        before = photos.crop(rng) if scene is None else render(scene)
        kind = str(rng.choice(TONE))
        words, change, _ = tone_edit(kind, rng)
        mask = any_region(scene, rng)
        after = np.where(mask[..., None] > 0, np.clip(change(before), 0, 1), before).astype(np.float32)
        if changed(before, after).any():
            return RegionPair(before, after, mask, words, kind)
