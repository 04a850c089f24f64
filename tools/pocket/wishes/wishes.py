"""The world of indirect wishes: words that name no edit, and which explicit edit fulfils them in the scene they are said of.

    python -m tools.pocket.wishes.wishes sheet.png          # one of each kind, before and after

A sample is an indirect wish, or a direct instruction, whose answer is itself. Scenes with a shape and colour combination that training keeps out, and
wordings that are held out, occur only where `held_out` is asked for.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import numpy as np

from ..world.drawing import is_unseen_pair
from ..world.effects import Filter, sample_edit
from ..world.image_grid import grid
from ..world.scenes import Scene, render, sample_scene
from .explicit_edits import Deed, drawn
from .kinds import DEPENDENT, INDEPENDENT, MAKERS
from .wordings import wordings

DIRECT = "direct"
"""The kind of a direct instruction."""
PLAIN_REASON = "these words name the edit"
DEPENDENT_SHARE = 0.65
"""Of the wishes: their answers take more learning."""


@dataclass(frozen=True)
class Wish:
    """A wish said of an image. Images are float32 [128, 128, 3] in 0..1."""

    kind: str
    scene: Scene
    words: str
    instruction: str
    """The explicit edit that fulfils the wish here, in words the pocket editor knows."""
    reason: str
    before: np.ndarray
    after: np.ndarray
    caption: str
    """Of the image after the edit."""
    image_dependent: bool
    meaning: tuple[str, str, str] | None
    """Kind, target and value of the edit, as `deeds.understood` reads them; None for a direct instruction in other wordings."""
    light: Filter | None = None
    """What is over the drawn scene before the edit, where the camera spoilt it."""

    @property
    def answer(self) -> str:
        """What the reader shall say."""
        return answer(self.instruction, self.reason)


def answer(instruction: str, reason: str) -> str:
    """The JSON object that Explain Instruction asks for."""
    return json.dumps({"instruction": instruction, "reason": reason})


def holds_unseen(*scenes: Scene) -> bool:
    """Whether a scene shows a shape in a colour that training keeps from it."""
    return any(
        thing.colour_name and is_unseen_pair(thing.shape, thing.colour_name)
        for scene in scenes
        for thing in scene.things
    )


def sample_words(kind: str, rng: np.random.Generator, held_out: bool = False) -> str:
    """One of a kind's wordings."""
    groups = wordings(kind, held_out)
    group = groups[rng.integers(len(groups))]
    return group[rng.integers(len(group))]


def sample_wish(rng: np.random.Generator, kind: str | None = None, held_out: bool = False) -> Wish:
    """Draw an indirect wish and a scene in which it makes sense.

    Args:
        rng: everything is drawn from it.
        kind: a key of `wish_kinds.MAKERS`; None draws one, `DEPENDENT_SHARE` of them image-dependent.
        held_out: words from the held-out wordings, and combinations of shape and colour that training never shows may occur.
    """
    if kind is None:
        kinds = DEPENDENT if rng.random() < DEPENDENT_SHARE else INDEPENDENT
        kind = list(kinds)[rng.integers(len(kinds))]
    while True:
        draft = MAKERS[kind](rng)
        if held_out or not holds_unseen(draft.scene, draft.deed.scene):
            break
    deed: Deed = draft.deed
    return Wish(
        kind,
        draft.scene,
        sample_words(kind, rng, held_out),
        deed.words,
        draft.reason,
        drawn(draft.scene, draft.light),
        deed.render(draft.light),
        deed.caption(rng),
        kind in DEPENDENT,
        deed.meaning,
        draft.light,
    )


def sample_direct(rng: np.random.Generator) -> Wish:
    """Draw a scene and an instruction that names its edit, in any of the editor's wordings, vague ones and two in one included."""
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
    """Draw one wish of every kind, before and after, four pairs a row, and print their words."""
    rng = np.random.default_rng(seed)
    cells: list[np.ndarray] = []
    for kind in MAKERS:
        wish = sample_wish(rng, kind, held_out)
        print(
            f"{len(cells) // 8}.{len(cells) // 2 % 4} {kind:15} | {wish.words} | {wish.instruction} | {wish.reason}"
        )
        cells += [wish.before, wish.after]
    cells += [np.ones_like(cells[0])] * (-len(cells) % 8)
    grid([cells[i : i + 8] for i in range(0, len(cells), 8)], path)


if __name__ == "__main__":
    sheet(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
