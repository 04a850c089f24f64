"""What a vision tower shall see: for every patch of a drawn scene, which shape and colour the thing there has, what it wears and where its outline runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from .drawing import COLOUR_NAMES, SHAPES, SIZE, shape_distance
from .export import TARGET
from .running import load_average
from .scenes import Scene, nearest_name, render, sample_scene
from .train_clip import DEVIATION, MEAN

WORN = ("border", "stripes", "dots", "hat", "glasses", "eyes", "smile")
COVERED = 0.25
"""Share of a patch that a thing must cover to be what is there."""
DRESSED = 0.35
"""Share of things that wear something more than scenes have by themselves."""
CELLS = 4
"""A patch's outline is told in so many rows and columns."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Pictures [n, 3, 128, 128] as CLIP reads them, and of every patch: shape and colour [n, P], 0 for nothing, what is worn [n, P, 7], outline [n, P, 16]."""


class Sight(nn.Module):
    """A CLIP vision tower and what reads its patches while it learns to see."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        config: Any = tower.config
        self.tower, self.side = tower, config.image_size // config.patch_size
        self.sizes = (len(SHAPES) + 1, len(COLOUR_NAMES) + 1, len(WORN), CELLS**2)
        self.heads = nn.Linear(config.hidden_size, sum(self.sizes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Logits of what a batch says of its patches."""
        states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        return self.heads(states).float().split(self.sizes, dim=-1)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of all that is to be told, patches with something and without counting as much."""
        pixels, shape, colour, worn, outline = batch
        logits = self(pixels)
        there = shape > 0
        weight = torch.where(there, 0.5 / there.sum().clamp(min=1), 0.5 / (~there).sum().clamp(min=1))
        named = [
            functional.cross_entropy(each.flatten(0, 1), truth.flatten(), reduction="none").view_as(weight)
            for each, truth in zip(logits[:2], (shape, colour), strict=True)
        ]
        edges = functional.binary_cross_entropy_with_logits(logits[3], outline)
        return ((2 * named[0] + named[1]) * weight).sum() + functional.binary_cross_entropy_with_logits(logits[2][there], worn[there]) + 2 * edges


def silhouettes(scene: Scene) -> list[np.ndarray]:
    """What is seen of every thing, bool [128, 128]: later things cover earlier ones. Borders belong to the thing, hats do not."""
    seen: list[np.ndarray] = []
    for thing in scene.things:
        own = shape_distance(thing.shape, thing.x, thing.y, thing.r) <= (5 if thing.border is not None else 0)
        seen = [other & ~own for other in seen]
        seen.append(own)
    return seen


def seen(scene: Scene, side: int) -> tuple[np.ndarray, ...]:
    """What is in every patch: see :data:`Batch`."""
    patch, cell = SIZE // side, SIZE // side // CELLS
    shape, colour = np.zeros((2, side, side), np.int64)
    worn, most = np.zeros((side, side, len(WORN)), np.float32), np.full((side, side), COVERED, np.float32)
    masks = silhouettes(scene)
    for thing, mask in zip(scene.things, masks, strict=True):
        share = mask.reshape(side, patch, side, patch).mean((1, 3))
        here = share >= most
        most[here] = share[here]
        shape[here], colour[here] = SHAPES.index(thing.shape) + 1, COLOUR_NAMES.index(nearest_name(thing.colour)) + 1
        worn[here] = [bool(each) if isinstance(each, bool) else each is not None for each in (getattr(thing, name) for name in WORN)]
    cells = np.any(masks, axis=0).reshape(side, CELLS, cell, side, CELLS, cell).mean((2, 5)).transpose(0, 2, 1, 3)
    return shape, colour, worn, cells.reshape(side, side, CELLS**2).astype(np.float32)


def _dressed(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene with hats, glasses, smiles and borders that `sample_scene` never draws."""
    for index in range(len(scene.things)):
        if rng.random() < DRESSED:
            scene = scene.with_thing(index, **{str(rng.choice(("hat", "glasses", "smile", "border"))): rng.random(3).astype(np.float32)})
    return scene


def draw(rng: np.random.Generator, count: int, side: int) -> Batch:
    """Draw scenes, and look at each in a mirror too, which costs less than drawing."""
    scenes = [_dressed(rng, sample_scene(rng, dressed=0.4)) for _ in range(-(-count // 2))]
    pictures = [render(scene) for scene in scenes]
    shape, colour, worn, outline = (list(each) for each in zip(*(seen(scene, side) for scene in scenes), strict=True))
    pictures += [picture[:, ::-1] for picture in pictures]
    shape, colour, worn = (each + [one[:, ::-1] for one in each] for each in (shape, colour, worn))
    outline += [one[:, ::-1].reshape(side, side, CELLS, CELLS)[..., ::-1].reshape(side, side, -1) for one in outline]
    pixels = torch.from_numpy(np.stack(pictures)[:count]).permute(0, 3, 1, 2)
    told = [torch.from_numpy(np.stack(each)[:count]).flatten(1, 2) for each in (shape, colour, worn, outline)]
    return (pixels - MEAN) / DEVIATION, *told


def load_tower() -> nn.Module:
    """The editor's own image encoder, without what it projects with: what sight begins as."""
    return CLIPVisionModelWithProjection.from_pretrained(TARGET / "image_encoder", torch_dtype=torch.float32).vision_model


def seeing() -> dict[str, Tensor]:
    """The weights of the tower that `train_sight` taught."""
    sight = Sight(load_tower())
    load_average("sight", sight)
    return sight.tower.state_dict()
