"""Trains a vision tower on patch labels, see models/patch_labels.py. Finder and reader start from this tower.

    python -m tools.pocket.reasoning_stages.train_sight --seconds 1500

Without this stage, a finder answered every phrase with an empty mask after 600 steps, and a reader knew all
wishes and colors after 3,500 steps but hardly any shape.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..models.patch_labels import Batch, PatchClassifier, draw, load_tower
from ..stages.training_run import Run, arguments

LABELS = ("shape", "colour", "worn", "outline", "size", "pattern", "odd")


class Steps(Dataset[Batch]):
    """The batch of every step. It depends on (seed, step) only, not on the process that draws it."""

    def __init__(self, seed: int, batch: int, side: int) -> None:
        self.seed = seed
        self.batch = batch
        self.side = side

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, step: int) -> Batch:
        """Draws the batch of a step."""
        return draw(np.random.default_rng((self.seed, step)), self.batch, self.side)


@torch.no_grad()
def validate(model: PatchClassifier, device: str) -> dict[str, float]:
    """Returns the accuracy of each label: outlines over all cells, the others over patches with a thing."""
    batch = [tensor.to(device) for tensor in draw(np.random.default_rng(99_983), 200, model.side)]
    logits = dict(zip(LABELS, model(batch[0]), strict=True))
    truth = dict(zip(LABELS, batch[1:], strict=True))
    there = truth["shape"] > 0
    figures: dict[str, float] = {}
    for name in ("shape", "colour", "size", "pattern"):
        correct = logits[name].argmax(-1) == truth[name]
        figures[name] = float(correct[there].float().mean())
    for name in ("worn", "odd"):
        correct = ((logits[name] > 0) == (truth[name] > 0.5)).all(-1)
        figures[name] = float(correct[there].float().mean())
    correct = (logits["outline"] > 0) == (truth["outline"] > 0.5)
    figures["outline"] = float(correct.float().mean())
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Trains until the budget ends."""
    options = arguments(__doc__ or "", seconds=1500, batch=64, rate=1.5e-3)
    device = options.device
    model = PatchClassifier(load_tower()).to(device).requires_grad_(True)
    run = Run("sight", model, options, decay=0.998)
    loader = DataLoader(
        Steps(options.seed, options.batch, model.side),
        batch_size=None,
        sampler=range(run.step, 2**40),
        num_workers=options.workers,
    )
    batches = iter(loader)
    first_step = run.step
    began = time.monotonic()
    while run.share < 1:
        batch = [tensor.to(device) for tensor in next(batches)]
        with torch.autocast(device, torch.bfloat16):
            loss = model.loss(tuple(batch))
        run.apply(loss, warmup=200, floor=0.02)
        if run.step % 500 == 0:
            run.swap()
            run.log(
                rate=round((run.step - first_step) * options.batch / (time.monotonic() - began), 1),
                **validate(model.eval(), device),
            )
            model.train()
            run.swap()
            run.save()
    run.save()


if __name__ == "__main__":
    main()
