"""A vision tower learns to see before it is asked about what it sees (see sight.py). A finder whose tower had to learn that together with the words
answered every phrase with an empty mask after 600 steps, and a reader knew every wish and colour after 3,500 but hardly a shape.

    python -m tools.pocket.train_sight --tower finder|reader --seconds 600
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from .reader import make_reader, reader_tokenizer, start_vision
from .running import Run, arguments
from .sight import Sight, draw
from .train_finder import make_finder


def _reader_tower() -> nn.Module:
    model = make_reader(reader_tokenizer())
    start_vision(model)
    return model.model.vision_tower


TOWERS: dict[str, Callable[[], nn.Module]] = {"finder": lambda: make_finder().clip.vision_model, "reader": _reader_tower}
"""Name -> the tower, as its own stage begins with."""


@torch.no_grad()
def validate(model: Sight, device: str) -> dict[str, float]:
    """Shares of patches with a thing whose shape, colour and worn things are told right."""
    pixels, shape, colour, worn = (each.to(device) for each in draw(np.random.default_rng(99_983), 100, model.side))
    there = shape > 0
    told = model(pixels)
    right = (told[0].argmax(-1) == shape, told[1].argmax(-1) == colour, ((told[2] > 0) == (worn > 0.5)).all(-1))
    return {name: round(float(each[there].float().mean()), 3) for name, each in zip(("shape", "colour", "worn"), right, strict=True)}


def main() -> None:
    """Train until the budget ends."""
    options = arguments(__doc__ or "", seconds=600, batch=32, rate=1e-3, tower=tuple(TOWERS))
    device = options.device
    model = Sight(TOWERS[options.tower]()).to(device).requires_grad_(True)
    run = Run(f"sight_{options.tower}", model, options, decay=0.998)
    began, done = time.monotonic(), run.step
    while run.share < 1:
        batch = [each.to(device) for each in draw(run.randomness(), options.batch, model.side)]
        with torch.autocast(device, torch.bfloat16):
            loss = model.loss(*batch)
        run.apply(loss, warmup=200, floor=0.02)
        if run.step % 500 == 0:
            run.swap()
            run.log(rate=round((run.step - done) * options.batch / (time.monotonic() - began), 1), **validate(model.eval(), device))
            model.train()
            run.swap()
            run.save()
    run.save()


if __name__ == "__main__":
    main()
