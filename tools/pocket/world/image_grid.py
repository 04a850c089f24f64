"""Image grids for a look at the training images: `python -m tools.pocket.world.image_grid out.png`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .effects import KINDS, edit
from .scenes import render, sample_scene


def grid(rows: Sequence[Sequence[np.ndarray]], path: Path | str) -> None:
    """Saves rows of images [H, W, 3] in 0..1, all of one size, as one PNG."""
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    Image.fromarray((np.clip(sheet, 0, 1) * 255).round().astype(np.uint8)).save(path)


def main(path: str) -> None:
    """Draws one edit of every kind beside its scene and prints its words."""
    rng = np.random.default_rng(0)
    cells: list[np.ndarray] = []
    for kind in KINDS:
        made = None
        while made is None:
            scene = sample_scene(rng)
            made = edit(scene, kind, rng)
        print(f"{kind:10} | {made.words} | {made.caption(rng)}")
        cells += [render(scene), made.render()]
    cells += [np.ones_like(cells[0])] * (-len(cells) % 12)
    grid([cells[i : i + 12] for i in range(0, len(cells), 12)], path)


if __name__ == "__main__":
    main(sys.argv[1])
