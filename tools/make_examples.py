"""Draw the pictures that the example workflows use, and learn the instruction that the second one loads.

    .venv/bin/python tools/make_examples.py            # pairs and pictures
    .venv/bin/python tools/make_examples.py learn      # also the instruction; again whenever the pocket editor changes

The effect is one that no words name exactly and that the pocket editor never saw: dark blue on the left, warm
light from the right.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from instructbrush.tools.get_comfyui import REPOSITORY
from instructbrush.tools.pocket.heldout import EFFECTS

EXAMPLES = REPOSITORY / "example_workflows"
EFFECT = "ramp"
PAIRS = EXAMPLES / "pairs" / "light_from_the_right"
NEW = EXAMPLES / "pairs" / "light_from_the_right_new"
INSTRUCTION = EXAMPLES / "models" / "instructions" / "light_from_the_right.safetensors"


def draw(folder: Path, count: int, seed: int) -> None:
    """Write `count` pairs of the effect as {i}_0.png and {i}_1.png."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for side, pictures in enumerate(EFFECTS[EFFECT].pairs(count, seed)):
        for index, picture in enumerate(pictures):
            pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}_{side}.png", optimize=True)


def learn() -> None:
    """Learn the instruction with the command line's defaults."""
    from instructbrush.core.commandline import main as instructbrush

    INSTRUCTION.parent.mkdir(parents=True, exist_ok=True)
    INSTRUCTION.unlink(missing_ok=True)
    if instructbrush(["learn", "--pairs", str(PAIRS), "--out", str(INSTRUCTION), "--init", EFFECTS[EFFECT].words, "--seed", "0"]):
        raise SystemExit("learning failed")


if __name__ == "__main__":
    draw(PAIRS, 4, seed=2)
    draw(NEW, 2, seed=5)
    if "learn" in sys.argv[1:]:
        learn()
