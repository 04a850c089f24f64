"""Draws the pairs of the example workflows and learns the instructions that they load.

    .venv/bin/python tools/examples/make_examples.py         # pairs
    .venv/bin/python tools/examples/make_examples.py learn   # also the instructions

Learn them again whenever the pocket editor changes. Its training saw neither effect, and no words name them
exactly: dark blue on the left and warm light from the right; a duotone of plum and mint. Two more pairs show
scenes in which the same wish asks for different edits, and two show scenes with two wishes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from instructbrush.tools.examples.retouched_pairs import draw_retouched
from instructbrush.tools.get_comfyui import REPOSITORY
from instructbrush.tools.pocket.wishes.explicit_edits import put_frame
from instructbrush.tools.pocket.wishes.kinds import MAKERS
from instructbrush.tools.pocket.wishes.wishes import Wish, holds_unseen, sample_wish
from instructbrush.tools.pocket.world.held_out_effects import EFFECTS
from instructbrush.tools.pocket.world.scenes import render

EXAMPLES = REPOSITORY / "example_workflows"
# Name of an example instruction -> the effect from which it is learned.
INSTRUCTIONS = {"light_from_the_right": "ramp", "plum_and_mint": "duotone_plum_mint"}
PAIRS = EXAMPLES / "pairs" / "light_from_the_right"
NEW = EXAMPLES / "pairs" / "light_from_the_right_new"
LEARNED = EXAMPLES / "models" / "instructions"
WISH = "it should look as if hours had passed"
WISHED = EXAMPLES / "pairs" / "hours_passed"
# What the wish asks for in the first image, where the sun is up, and in the second, where there is no sun.
MEANINGS = ("make it sunset", "make it night")
# Two wishes: the thing takes the next color, and the image gets a frame.
TWO_WISHES = "the traffic light changes now, and it should hang in a museum"
CHANGED = EXAMPLES / "pairs" / "changed_and_framed"


def draw(folder: Path, effect: str, count: int, seed: int) -> None:
    """Writes `count` pairs of the effect."""
    save(folder, *EFFECTS[effect].pairs(count, seed))


def draw_wishes(folder: Path, kind: str, meanings: Sequence[str], seed: int) -> None:
    """Writes a pair for each edit in `meanings`, in a scene where this kind of wish asks for that edit."""
    rng = np.random.default_rng(seed)
    found: dict[str, Wish] = {}
    while not found.keys() >= set(meanings):
        wish = sample_wish(rng, kind)
        found.setdefault(wish.instruction, wish)
    save(
        folder,
        [found[meaning].before for meaning in meanings],
        [found[meaning].after for meaning in meanings],
    )


def draw_two_wishes(folder: Path, count: int, seed: int) -> None:
    """Writes `count` pairs in which both of ``TWO_WISHES`` are fulfilled."""
    rng = np.random.default_rng(seed)
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    while len(before) < count:
        draft = MAKERS["traffic_light"](rng)
        if not holds_unseen(draft.scene, draft.edit.scene):
            before.append(render(draft.scene))
            after.append(put_frame(draft.edit.scene, "brown").render())
    save(folder, before, after)


def save(folder: Path, *sides: Iterable[np.ndarray]) -> None:
    """Writes the images before and after the edit as {i}_0.png and {i}_1.png."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for side, images in enumerate(sides):
        for index, image in enumerate(images):
            pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}_{side}.png", optimize=True)


def learn() -> None:
    """Learns the instructions with the defaults of the command line."""
    from instructbrush.cli.main import main as instructbrush

    LEARNED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, effect in INSTRUCTIONS.items():
            pairs = Path(folder) / name
            draw(pairs, effect, 4, seed=2)
            options = ["--pairs", str(pairs), "--out", str(LEARNED / f"{name}.safetensors")]
            options += ["--init", EFFECTS[effect].words, "--seed", "0", "--overwrite"]
            if instructbrush(["learn", *options]):
                raise SystemExit(f"learning {name} failed")


if __name__ == "__main__":
    draw(PAIRS, INSTRUCTIONS[PAIRS.name], 4, seed=2)
    draw(NEW, INSTRUCTIONS[PAIRS.name], 2, seed=5)
    draw_wishes(WISHED, WISHED.name, MEANINGS, seed=7)
    draw_two_wishes(CHANGED, 2, seed=7)
    draw_retouched()
    if "learn" in sys.argv[1:]:
        learn()
