"""A vision tower learns to see before it is asked about what it sees (see sight.py). Finder and reader begin with it: a finder whose tower had to learn
that together with the words answered every phrase with an empty mask after 600 steps, and a reader knew every wish and colour after 3,500 but hardly a shape.

    python -m tools.pocket.reasoning_stages.train_sight --seconds 1500
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..models.patch_labels import Batch, Sight, draw, load_tower
from ..stages.training_run import Run, arguments


class Steps(Dataset[Batch]):
    """The batch of every step, drawn from (seed, step) alone, whatever process draws it."""

    def __init__(self, seed: int, batch: int, side: int) -> None:
        self.seed, self.batch, self.side = seed, batch, side

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, step: int) -> Batch:
        """Draw the batch of a step."""
        return draw(np.random.default_rng((self.seed, step)), self.batch, self.side)


@torch.no_grad()
def validate(model: Sight, device: str) -> dict[str, float]:
    """Shares of patches with a thing of which each is told right, and of cells on the right side of an outline."""
    pixels, shape, colour, worn, outline, size, pattern, odd = (
        each.to(device) for each in draw(np.random.default_rng(99_983), 200, model.side)
    )
    there = shape > 0
    told = model(pixels)
    named = {
        "shape": (told[0], shape),
        "colour": (told[1], colour),
        "size": (told[4], size),
        "pattern": (told[5], pattern),
    }
    right = {name: logits.argmax(-1) == truth for name, (logits, truth) in named.items()}
    right |= {
        name: ((logits > 0) == (truth > 0.5)).all(-1)
        for name, (logits, truth) in {"worn": (told[2], worn), "odd": (told[6], odd)}.items()
    }
    figures = {name: float(each[there].float().mean()) for name, each in right.items()}
    figures["outline"] = float(((told[3] > 0) == (outline > 0.5)).float().mean())
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Train until the budget ends."""
    options = arguments(__doc__ or "", seconds=1500, batch=64, rate=1.5e-3)
    device = options.device
    model = Sight(load_tower()).to(device).requires_grad_(True)
    run = Run("sight", model, options, decay=0.998)
    loader = DataLoader(
        Steps(options.seed, options.batch, model.side),
        batch_size=None,
        sampler=range(run.step, 2**40),
        num_workers=options.workers,
    )
    began, done, batches = time.monotonic(), run.step, iter(loader)
    while run.share < 1:
        batch = [each.to(device) for each in next(batches)]
        with torch.autocast(device, torch.bfloat16):
            loss = model.loss(tuple(batch))
        run.apply(loss, warmup=200, floor=0.02)
        if run.step % 500 == 0:
            run.swap()
            run.log(
                rate=round((run.step - done) * options.batch / (time.monotonic() - began), 1),
                **validate(model.eval(), device),
            )
            model.train()
            run.swap()
            run.save()
    run.save()


if __name__ == "__main__":
    main()
