"""What a vision tower shall see: for every patch of a drawn scene, which shape and colour the thing there has and what it wears."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .drawing import COLOUR_NAMES, SHAPES, SIZE, shape_distance
from .running import load_average
from .scenes import Scene, nearest_name, render, sample_scene
from .train_clip import DEVIATION, MEAN

WORN = ("border", "stripes", "dots", "hat", "glasses", "eyes", "smile")
COVERED = 0.25
"""Share of a patch that a thing must cover to be what is there."""
DRESSED = 0.35
"""Share of things that wear something more than scenes have by themselves."""


class Sight(nn.Module):
    """A CLIP vision tower and what reads its patches while it learns to see."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        config: Any = tower.config
        self.tower, self.side = tower, config.image_size // config.patch_size
        self.sizes = (len(SHAPES) + 1, len(COLOUR_NAMES) + 1, len(WORN))
        self.heads = nn.Linear(config.hidden_size, sum(self.sizes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of shape, colour and what is worn for pictures [n, 3, 128, 128], each [n, patches, ...]; shape and colour 0 are nothing."""
        states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        shape, colour, worn = self.heads(states).float().split(self.sizes, dim=-1)
        return shape, colour, worn

    def loss(self, pixels: Tensor, shape: Tensor, colour: Tensor, worn: Tensor) -> Tensor:
        """Cross-entropy of all that is to be told, patches with something and without counting as much."""
        logits = self(pixels)
        there = shape > 0
        weight = torch.where(there, 0.5 / there.sum().clamp(min=1), 0.5 / (~there).sum().clamp(min=1))
        both = sum(
            functional.cross_entropy(each.flatten(0, 1), truth.flatten(), reduction="none").view_as(weight)
            for each, truth in zip(logits, (shape, colour), strict=False)
        )
        return (both * weight).sum() + 2 * functional.binary_cross_entropy_with_logits(logits[2][there], worn[there])


def silhouettes(scene: Scene) -> list[np.ndarray]:
    """What is seen of every thing, bool [128, 128]: later things cover earlier ones. Borders belong to the thing, hats do not."""
    seen: list[np.ndarray] = []
    for thing in scene.things:
        own = shape_distance(thing.shape, thing.x, thing.y, thing.r) <= (5 if thing.border is not None else 0)
        seen = [other & ~own for other in seen]
        seen.append(own)
    return seen


def seen(scene: Scene, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is in every patch: shape and colour [side^2], 0 for nothing, and what is worn [side^2, 7]."""
    patch = SIZE // side
    shape, colour = np.zeros((2, side * side), np.int64)
    worn, most = np.zeros((side * side, len(WORN)), np.float32), np.full(side * side, COVERED, np.float32)
    for thing, mask in zip(scene.things, silhouettes(scene), strict=True):
        share = mask.reshape(side, patch, side, patch).mean((1, 3)).reshape(-1)
        here = share >= most
        most[here] = share[here]
        shape[here], colour[here] = SHAPES.index(thing.shape) + 1, COLOUR_NAMES.index(nearest_name(thing.colour)) + 1
        worn[here] = [bool(each) if isinstance(each, bool) else each is not None for each in (getattr(thing, name) for name in WORN)]
    return shape, colour, worn


def _dressed(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene with hats, glasses, smiles and borders that `sample_scene` never draws."""
    for index in range(len(scene.things)):
        if rng.random() < DRESSED:
            scene = scene.with_thing(index, **{str(rng.choice(("hat", "glasses", "smile", "border"))): rng.random(3).astype(np.float32)})
    return scene


def draw(rng: np.random.Generator, count: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures [n, 3, 128, 128] as CLIP reads them, and what is in their patches."""
    scenes = [_dressed(rng, sample_scene(rng, dressed=0.4)) for _ in range(count)]
    pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2)
    shape, colour, worn = (torch.from_numpy(np.stack(each)) for each in zip(*(seen(scene, side) for scene in scenes), strict=True))
    return (pixels - MEAN) / DEVIATION, shape, colour, worn


def load_sight(tower: nn.Module, name: str) -> None:
    """Give a tower what `train_sight` has taught it under that name."""
    sight = Sight(tower)
    load_average(f"sight_{name}", sight)
