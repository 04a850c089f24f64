"""What a vision tower shall see: for every patch of a drawn scene, which shape and colour the thing there has, what it wears, where its outline runs, and how
it compares with the others."""

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
from ..world.scenes import Scene, nearest_name, render, sample_scene

WORN = ("border", "stripes", "dots", "hat", "glasses", "eyes", "smile")
COVERED = 0.25
"""Share of a patch that a thing must cover to be what is there."""
DRESSED = 0.35
"""Share of things that wear something more than scenes have by themselves."""
CELLS = 4
"""A patch's outline is told in so many rows and columns."""

SIZES = ("", "smallest", "between", "biggest")
"""How big a thing is beside the others; nothing where it is alone or too near to another's size."""
CLEARLY = 1.2
"""How many times the next one's size is plainly bigger."""
COMPARED_SHARE = 0.4
"""Share of scenes that wishes compare things in."""
OUTLINE = 3
"""Where outlines are among what is told: a mirror turns each of them too."""
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

Told = tuple[Tensor, ...]
"""Of every patch: shape and colour [n, P], 0 for nothing, what is worn [n, P, 7], outline [n, P, 16], size among :data:`SIZES` [n, P], colour of stripes or
dots [n, P], 0 for none, and whether it alone has its colour, its shape, where there are three [n, P, 2]."""
Batch = tuple[Tensor, ...]
"""Images [n, 3, 128, 128] as CLIP reads them, and what is told of them."""


class Heads(nn.Linear):
    """Read patches [n, P, width]: logits of all that is told of them."""

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
        """Logits [n, P, names] of each."""
        return super().forward(states).float().split(self.sizes, dim=-1)


class Sight(nn.Module):
    """A CLIP vision tower and what reads its patches while it learns to see."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        config: Any = tower.config
        self.tower, self.side = tower, config.image_size // config.patch_size
        self.heads = Heads(config.hidden_size)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Logits of what a batch says of its patches."""
        return self.heads(patch_states(self.tower, pixels))

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of all that is to be told, patches with something and without counting as much."""
        pixels, *told = batch
        return sight_error(self(pixels), told)


def patch_states(tower: nn.Module, pixels: Tensor) -> Tensor:
    """What a tower makes of every patch [n, P, width]."""
    return tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, 1:]


def named_error(shapes: Tensor, colours: Tensor, shape: Tensor, colour: Tensor) -> Tensor:
    """Cross-entropy of the shapes and colours named [n, P, names], patches with something and without counting as much."""
    there = shape > 0
    weight = torch.where(there, 0.5 / there.sum().clamp(min=1), 0.5 / (~there).sum().clamp(min=1))
    named = [
        functional.cross_entropy(each.flatten(0, 1), truth.flatten(), reduction="none").view_as(weight)
        for each, truth in ((shapes, shape), (colours, colour))
    ]
    return ((2 * named[0] + named[1]) * weight).sum()


def sight_error(logits: Sequence[Tensor], told: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of all that is to be told of patches."""
    shape, colour, worn, outline, size, pattern, odd = told
    there = shape > 0
    error = named_error(
        logits[0], logits[1], shape, colour
    ) + 2 * functional.binary_cross_entropy_with_logits(logits[3], outline)
    if there.any():
        error = error + functional.binary_cross_entropy_with_logits(logits[2][there], worn[there])
        error = (
            error
            + functional.cross_entropy(logits[4][there], size[there])
            + functional.cross_entropy(logits[5][there], pattern[there])
        )
        error = error + 2 * functional.binary_cross_entropy_with_logits(logits[6][there], odd[there])
    return error


def silhouettes(scene: Scene) -> list[np.ndarray]:
    """What is seen of every thing, bool [128, 128]: later things cover earlier ones. Borders belong to the thing, hats do not."""
    seen: list[np.ndarray] = []
    for thing in scene.things:
        own = shape_distance(thing.shape, thing.x, thing.y, thing.r) <= (5 if thing.border is not None else 0)
        seen = [other & ~own for other in seen]
        seen.append(own)
    return seen


def compared(scene: Scene) -> list[tuple[int, bool, bool]]:
    """How each thing compares with the others: its size among :data:`SIZES`, whether it alone of three has its colour, whether it alone has its shape."""
    radii = sorted(thing.r for thing in scene.things)
    colours, shapes = (
        [nearest_name(thing.colour) for thing in scene.things],
        [thing.shape for thing in scene.things],
    )
    found = []
    for thing, colour in zip(scene.things, colours, strict=True):
        smaller, bigger = (
            [r for r in radii if r * CLEARLY < thing.r],
            [r for r in radii if r > thing.r * CLEARLY],
        )
        apart = len(radii) > 1 and len(smaller) + len(bigger) == len(radii) - 1
        size = 0 if not apart else 2 if smaller and bigger else 3 if smaller else 1
        found.append(
            (
                size,
                *(
                    len(names) == 3 and names.count(own) == 1 and len(set(names)) == 2
                    for names, own in ((colours, colour), (shapes, thing.shape))
                ),
            )
        )
    return found


def seen(scene: Scene, side: int) -> tuple[np.ndarray, ...]:
    """What is in every patch: see :data:`Told`."""
    patch, cell = SIZE // side, SIZE // side // CELLS
    shape, colour = np.zeros((2, side, side), np.int64)
    worn, most = np.zeros((side, side, len(WORN)), np.float32), np.full((side, side), COVERED, np.float32)
    size, pattern = np.zeros((2, side, side), np.int64)
    odd = np.zeros((side, side, 2), np.float32)
    masks = silhouettes(scene)
    for thing, mask, beside in zip(scene.things, masks, compared(scene), strict=True):
        share = mask.reshape(side, patch, side, patch).mean((1, 3))
        here = share >= most
        most[here] = share[here]
        shape[here], colour[here] = (
            SHAPES.index(thing.shape) + 1,
            COLOUR_NAMES.index(nearest_name(thing.colour)) + 1,
        )
        worn[here] = [
            bool(each) if isinstance(each, bool) else each is not None
            for each in (getattr(thing, name) for name in WORN)
        ]
        dyed = thing.stripes if thing.stripes is not None else thing.dots
        size[here], odd[here] = beside[0], beside[1:]
        pattern[here] = 0 if dyed is None else COLOUR_NAMES.index(nearest_name(dyed)) + 1
    cells = (
        np.any(masks, axis=0).reshape(side, CELLS, cell, side, CELLS, cell).mean((2, 5)).transpose(0, 2, 1, 3)
    )
    return shape, colour, worn, cells.reshape(side, side, CELLS**2).astype(np.float32), size, pattern, odd


def _dressed(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene with hats, glasses, smiles and borders that `sample_scene` never draws."""
    for index in range(len(scene.things)):
        if rng.random() < DRESSED:
            scene = scene.with_thing(
                index,
                **{str(rng.choice(("hat", "glasses", "smile", "border"))): rng.random(3).astype(np.float32)},
            )
    return scene


def _comparing(rng: np.random.Generator) -> Scene:
    """A scene of a wish that compares things."""
    while True:
        scene = MAKERS[str(rng.choice(COMPARING))](rng).scene
        if not any(
            thing.colour_name and is_unseen_pair(thing.shape, thing.colour_name) for thing in scene.things
        ):
            return scene


def draw(rng: np.random.Generator, count: int, side: int) -> Batch:
    """Draw scenes, and look at each in a mirror too, which costs less than drawing."""
    scenes = [
        _comparing(rng) if rng.random() < COMPARED_SHARE else _dressed(rng, sample_scene(rng, dressed=0.4))
        for _ in range(-(-count // 2))
    ]
    images = [render(scene) for scene in scenes]
    told = [list(each) for each in zip(*(seen(scene, side) for scene in scenes), strict=True)]
    images += [image[:, ::-1] for image in images]
    for each in told:
        each += [one[:, ::-1] for one in each]
    cells = told[OUTLINE]
    cells[len(scenes) :] = [
        one.reshape(side, side, CELLS, CELLS)[..., ::-1].reshape(side, side, -1)
        for one in cells[len(scenes) :]
    ]
    pixels = torch.from_numpy(np.stack(images)[:count]).permute(0, 3, 1, 2)
    return (pixels - MEAN) / DEVIATION, *(
        torch.from_numpy(np.stack(each)[:count]).flatten(1, 2) for each in told
    )


def load_tower() -> nn.Module:
    """The editor's own image encoder, without what it projects with: what sight begins as."""
    return CLIPVisionModelWithProjection.from_pretrained(
        TARGET / "image_encoder", torch_dtype=torch.float32
    ).vision_model


def taught() -> Sight:
    """What `train_sight` taught: the tower, and what reads its patches."""
    sight = Sight(load_tower())
    load_average("sight", sight)
    return sight
