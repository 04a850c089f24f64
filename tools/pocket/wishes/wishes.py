"""Indirect wishes: words that name no edit, with a scene and the explicit edit that fulfills them there.

    python -m tools.pocket.wishes.wishes sheet.png          # one of each kind, before and after

A sample is an indirect wish or a direct instruction. The answer to a direct instruction is the instruction
itself. Held-out wordings, and combinations of shape and color that training never shows, occur only with
`held_out`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import numpy as np

from ..world.drawing import is_unseen_pair
from ..world.effects import sample_edit
from ..world.image_grid import grid
from ..world.scene_edit import Filter
from ..world.scenes import Scene, render, sample_scene
from .explicit_edits import draw_filtered
from .kinds import DEPENDENT, INDEPENDENT, MAKERS
from .wordings import wordings

# The kind of a direct instruction.
DIRECT = "direct"
PLAIN_REASON = "these words name the edit"
# Share of wishes whose answer depends on the image. These are harder to learn.
DEPENDENT_SHARE = 0.65


@dataclass(frozen=True)
class Wish:
    """A wish about an image. Images are float32 [128, 128, 3] in 0..1."""

    kind: str
    scene: Scene
    words: str
    instruction: str
    """The explicit edit that fulfills the wish in this scene, in words that the pocket editor knows."""
    reason: str
    before: np.ndarray
    after: np.ndarray
    caption: str
    """Caption of the image after the edit."""
    image_dependent: bool
    meaning: tuple[str, str, str] | None
    """Kind, target and value of the edit, as `parse_instruction` reads them; None for a direct instruction.
    """
    light: Filter | None = None
    """Filter for the drawn scene before the edit, such as a wrong exposure."""

    @property
    def answer(self) -> str:
        """The answer that the reader learns to give."""
        return answer(self.instruction, self.reason)


def answer(instruction: str, reason: str) -> str:
    """Returns the JSON object that Explain Instruction expects."""
    return json.dumps({"instruction": instruction, "reason": reason})


def holds_unseen(*scenes: Scene) -> bool:
    """Whether a scene shows a combination of shape and color that training never shows."""
    return any(
        thing.colour_name and is_unseen_pair(thing.shape, thing.colour_name)
        for scene in scenes
        for thing in scene.things
    )


def sample_words(kind: str, rng: np.random.Generator, held_out: bool = False) -> str:
    """Draws one wording of a kind of wish."""
    groups = wordings(kind, held_out)
    group = groups[rng.integers(len(groups))]
    return group[rng.integers(len(group))]


def sample_wish(rng: np.random.Generator, kind: str | None = None, held_out: bool = False) -> Wish:
    """Draws an indirect wish and a scene in which it makes sense.

    Args:
        rng: source of all random choices.
        kind: a key of `MAKERS`; None draws one, `DEPENDENT_SHARE` of them image-dependent.
        held_out: uses the held-out wordings and allows combinations of shape and color that training never
        shows.
    """
    if kind is None:
        kinds = DEPENDENT if rng.random() < DEPENDENT_SHARE else INDEPENDENT
        kind = list(kinds)[rng.integers(len(kinds))]
    while True:
        draft = MAKERS[kind](rng)
        if held_out or not holds_unseen(draft.scene, draft.edit.scene):
            break
    edit = draft.edit
    return Wish(
        kind,
        draft.scene,
        sample_words(kind, rng, held_out),
        edit.words,
        draft.reason,
        draw_filtered(draft.scene, draft.light),
        edit.render(draft.light),
        edit.caption(rng),
        kind in DEPENDENT,
        edit.meaning,
        draft.light,
    )


def sample_direct(rng: np.random.Generator) -> Wish:
    """Draws a scene and an instruction that names its edit, in any wording of the editor."""
    while True:
        scene = sample_scene(rng)
        made = sample_edit(scene, rng)
        if not holds_unseen(made.scene):
            return Wish(
                DIRECT,
                scene,
                made.words,
                made.words,
                PLAIN_REASON,
                render(scene),
                made.render(),
                made.caption(rng),
                False,
                None,
            )


def sheet(path: str, seed: int = 0, held_out: bool = False) -> None:
    """Draws one wish of every kind, before and after, four pairs per row, and prints their words."""
    rng = np.random.default_rng(seed)
    cells: list[np.ndarray] = []
    for kind in MAKERS:
        wish = sample_wish(rng, kind, held_out)
        place = f"{len(cells) // 8}.{len(cells) // 2 % 4}"
        print(f"{place} {kind:15} | {wish.words} | {wish.instruction} | {wish.reason}")
        cells += [wish.before, wish.after]
    cells += [np.ones_like(cells[0])] * (-len(cells) % 8)
    grid([cells[i : i + 8] for i in range(0, len(cells), 8)], path)


if __name__ == "__main__":
    sheet(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
