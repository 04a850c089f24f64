"""Draw the pictures that the example workflows use, and learn the instructions that they load.

    .venv/bin/python tools/make_examples.py            # pairs and pictures
    .venv/bin/python tools/make_examples.py learn      # also the instructions; again whenever the pocket editor changes

The effects are ones that no words name exactly and that the pocket editor never saw: dark blue on the left and warm light from the
right; a duotone of plum and mint.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from instructbrush.tools.get_comfyui import REPOSITORY
from instructbrush.tools.pocket.heldout import EFFECTS

EXAMPLES = REPOSITORY / "example_workflows"
INSTRUCTIONS = {"light_from_the_right": "ramp", "plum_and_mint": "duotone_plum_mint"}
"""Name of an example instruction -> the effect it is learned from."""
PAIRS = EXAMPLES / "pairs" / "light_from_the_right"
NEW = EXAMPLES / "pairs" / "light_from_the_right_new"
LEARNED = EXAMPLES / "models" / "instructions"


def draw(folder: Path, effect: str, count: int, seed: int) -> None:
    """Write `count` pairs of the effect as {i}_0.png and {i}_1.png."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for side, pictures in enumerate(EFFECTS[effect].pairs(count, seed)):
        for index, picture in enumerate(pictures):
            pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}_{side}.png", optimize=True)


def learn() -> None:
    """Learn the instructions with the command line's defaults."""
    from instructbrush.core.commandline import main as instructbrush

    LEARNED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, effect in INSTRUCTIONS.items():
            pairs = Path(folder) / name
            draw(pairs, effect, 4, seed=2)
            given = ["--pairs", str(pairs), "--out", str(LEARNED / f"{name}.safetensors"), "--init", EFFECTS[effect].words, "--seed", "0", "--overwrite"]
            if instructbrush(["learn", *given]):
                raise SystemExit("learning failed")


if __name__ == "__main__":
    draw(PAIRS, INSTRUCTIONS[PAIRS.name], 4, seed=2)
    draw(NEW, INSTRUCTIONS[PAIRS.name], 2, seed=5)
    if "learn" in sys.argv[1:]:
        learn()
