"""Labels of image patches, from which a vision tower learns to see, and the classifier that predicts them.

Labels of a patch of a drawn scene: shape and color of the thing there, what it wears, its outline, and how it
compares with the other things.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from ..stages.export import TARGET
from ..stages.train_clip import DEVIATION, MEAN
from ..stages.training_run import load_average
from ..wishes.kinds import MAKERS
from ..world.drawing import COLOUR_NAMES, SHAPES, SIZE, is_unseen_pair, shape_distance
from ..world.scenes import Scene, Thing, nearest_name, render, sample_scene

WORN = ("border", "stripes", "dots", "hat", "glasses", "eyes", "smile")
# Share of a patch that a thing must cover to label the patch.
COVERED = 0.25
# Share of things that get another hat, pair of glasses, smile or border.
DRESSED = 0.35
# The outline in a patch has this many rows and columns.
CELLS = 4

# Size beside the other things; "" for a thing that is alone or about as big as another one.
SIZES = ("", "smallest", "between", "biggest")
# A thing is clearly bigger than another one from this ratio of radii.
CLEARLY = 1.2
# Share of scenes that come from wishes that compare things.
COMPARED_SHARE = 0.4
# Index of the outlines among the labels. A mirror flips the cells within each patch too.
OUTLINE = 3
COMPARING = (
    "odd_one",
    "matching_pair",
    "equal_sizes",
    "too_crowded",
    "dressed_alike",
    "forgot_hat",
    "cannot_see",
    "cheer_up",
)

# Seven labels of every patch:
# - shape and color [n, P], 0 for none,
# - items worn [n, P, 7],
# - outline [n, P, 16],
# - index of the size in SIZES [n, P],
# - color of stripes or dots [n, P], 0 for none,
# - of three things, the only one with its color, and with its shape [n, P, 2].
PatchLabels = tuple[Tensor, ...]
# Images [n, 3, 128, 128], normalized for CLIP, and their seven patch labels.
Batch = tuple[Tensor, ...]


class Heads(nn.Linear):
    """Predicts the logits of all labels from patch states [n, P, width]."""

    sizes = (
        len(SHAPES) + 1,
        len(COLOUR_NAMES) + 1,
        len(WORN),
        CELLS**2,
        len(SIZES),
        len(COLOUR_NAMES) + 1,
        2,
    )

    def __init__(self, width: int) -> None:
        super().__init__(width, sum(self.sizes))

    def forward(self, states: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Returns the logits of each label, [n, P, classes]."""
        return super().forward(states).float().split(self.sizes, dim=-1)


class PatchClassifier(nn.Module):
    """A CLIP vision tower with heads that predict patch labels."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        config: Any = tower.config
        self.tower = tower
        self.side = config.image_size // config.patch_size
        self.heads = Heads(config.hidden_size)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits of each label."""
        return self.heads(patch_states(self.tower, pixels))

    def loss(self, batch: Batch) -> Tensor:
        """Returns the sum of the losses of all labels."""
        pixels, *labels = batch
        return label_loss(self(pixels), labels)


def patch_states(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Returns the last hidden state of every patch, [n, P, width]."""
    return tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, 1:]


def shape_and_colour_loss(shapes: Tensor, colours: Tensor, shape: Tensor, colour: Tensor) -> Tensor:
    """Returns the cross-entropy of shape logits and color logits [n, P, classes].

    Patches with a thing and patches without one have equal total weights. Shapes count twice.
    """
    there = shape > 0
    weight = torch.where(there, 0.5 / there.sum().clamp(min=1), 0.5 / (~there).sum().clamp(min=1))
    shape_loss = functional.cross_entropy(shapes.flatten(0, 1), shape.flatten(), reduction="none")
    colour_loss = functional.cross_entropy(colours.flatten(0, 1), colour.flatten(), reduction="none")
    return ((2 * shape_loss + colour_loss).view_as(weight) * weight).sum()


def label_loss(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Returns the sum of the losses of all labels."""
    shape, colour, worn, outline, size, pattern, odd = labels
    there = shape > 0
    loss = shape_and_colour_loss(logits[0], logits[1], shape, colour)
    loss = loss + 2 * functional.binary_cross_entropy_with_logits(logits[3], outline)
    if there.any():
        loss = loss + functional.binary_cross_entropy_with_logits(logits[2][there], worn[there])
        loss = loss + functional.cross_entropy(logits[4][there], size[there])
        loss = loss + functional.cross_entropy(logits[5][there], pattern[there])
        loss = loss + 2 * functional.binary_cross_entropy_with_logits(logits[6][there], odd[there])
    return loss


def silhouettes(scene: Scene) -> list[np.ndarray]:
    """Returns the visible pixels of every thing, bool [128, 128].

    Later things cover earlier ones. Borders belong to the thing, hats do not.
    """
    visible: list[np.ndarray] = []
    for thing in scene.things:
        own = shape_distance(thing.shape, thing.x, thing.y, thing.r) <= (5 if thing.border is not None else 0)
        visible = [other & ~own for other in visible]
        visible.append(own)
    return visible


def compare_things(scene: Scene) -> list[tuple[int, bool, bool]]:
    """Compares each thing with the others.

    Returns the index of its size in `SIZES`, whether it is the odd one of three by color, and whether by
    shape.
    """
    radii = sorted(thing.r for thing in scene.things)
    colours = [nearest_name(thing.colour) for thing in scene.things]
    shapes = [thing.shape for thing in scene.things]
    return [
        (_size(thing.r, radii), _is_odd(colour, colours), _is_odd(thing.shape, shapes))
        for thing, colour in zip(scene.things, colours, strict=True)
    ]


def _size(radius: float, radii: list[float]) -> int:
    """Returns the index in `SIZES` of a thing with this radius among all radii."""
    smaller = [r for r in radii if r * CLEARLY < radius]
    bigger = [r for r in radii if r > radius * CLEARLY]
    if len(radii) < 2 or len(smaller) + len(bigger) < len(radii) - 1:
        return 0
    if smaller and bigger:
        return 2
    return 3 if smaller else 1


def _is_odd(name: str, names: list[str]) -> bool:
    return len(names) == 3 and names.count(name) == 1 and len(set(names)) == 2


def _wears(thing: Thing, name: str) -> bool:
    item = getattr(thing, name)
    return item if isinstance(item, bool) else item is not None


def label_patches(scene: Scene, side: int) -> tuple[np.ndarray, ...]:
    """Returns the labels of all patches, as in `PatchLabels` but with [side, side] instead of [n, P]."""
    patch = SIZE // side
    cell = patch // CELLS
    shape, colour, size, pattern = np.zeros((4, side, side), np.int64)
    worn = np.zeros((side, side, len(WORN)), np.float32)
    odd = np.zeros((side, side, 2), np.float32)
    largest_share = np.full((side, side), COVERED, np.float32)
    masks = silhouettes(scene)
    for thing, mask, comparison in zip(scene.things, masks, compare_things(scene), strict=True):
        share = mask.reshape(side, patch, side, patch).mean((1, 3))
        here = share >= largest_share
        largest_share[here] = share[here]
        shape[here] = SHAPES.index(thing.shape) + 1
        colour[here] = COLOUR_NAMES.index(nearest_name(thing.colour)) + 1
        worn[here] = [_wears(thing, name) for name in WORN]
        size[here] = comparison[0]
        odd[here] = comparison[1:]
        pattern_colour = thing.stripes if thing.stripes is not None else thing.dots
        pattern[here] = 0 if pattern_colour is None else COLOUR_NAMES.index(nearest_name(pattern_colour)) + 1
    cells = np.any(masks, axis=0).reshape(side, CELLS, cell, side, CELLS, cell).mean((2, 5))
    outline = cells.transpose(0, 2, 1, 3).reshape(side, side, CELLS**2).astype(np.float32)
    return shape, colour, worn, outline, size, pattern, odd


def _dressed(rng: np.random.Generator, scene: Scene) -> Scene:
    """Adds hats, glasses, smiles and borders, which `sample_scene` never draws."""
    for index in range(len(scene.things)):
        if rng.random() < DRESSED:
            item = str(rng.choice(("hat", "glasses", "smile", "border")))
            scene = scene.with_thing(index, **{item: rng.random(3).astype(np.float32)})
    return scene


def _comparing(rng: np.random.Generator) -> Scene:
    """Draws a scene of a wish that compares things."""
    while True:
        scene = MAKERS[str(rng.choice(COMPARING))](rng).scene
        if not any(
            thing.colour_name and is_unseen_pair(thing.shape, thing.colour_name) for thing in scene.things
        ):
            return scene


def draw(rng: np.random.Generator, count: int, side: int) -> Batch:
    """Draws a batch of `count` images: half of them scenes, the other half the same scenes mirrored."""
    scenes = [
        _comparing(rng) if rng.random() < COMPARED_SHARE else _dressed(rng, sample_scene(rng, dressed=0.4))
        for _ in range(-(-count // 2))
    ]
    images = [render(scene) for scene in scenes]
    labels = [np.stack(each) for each in zip(*(label_patches(scene, side) for scene in scenes), strict=True)]
    # Mirroring costs less than drawing.
    images += [image[:, ::-1] for image in images]
    mirrored = [label[:, :, ::-1] for label in labels]
    cells = mirrored[OUTLINE].reshape(len(scenes), side, side, CELLS, CELLS)[..., ::-1]
    mirrored[OUTLINE] = cells.reshape(len(scenes), side, side, -1)
    pixels = torch.from_numpy(np.stack(images)[:count]).permute(0, 3, 1, 2)
    both = [np.concatenate(halves)[:count] for halves in zip(labels, mirrored, strict=True)]
    return (pixels - MEAN) / DEVIATION, *(torch.from_numpy(label).flatten(1, 2) for label in both)


def load_tower() -> nn.Module:
    """Loads the editor's image encoder without its projection. The classifier's training starts from it."""
    return CLIPVisionModelWithProjection.from_pretrained(
        TARGET / "image_encoder", torch_dtype=torch.float32
    ).vision_model


def load_classifier() -> PatchClassifier:
    """Loads the classifier that `train_sight` trained."""
    classifier = PatchClassifier(load_tower())
    load_average("sight", classifier)
    return classifier
