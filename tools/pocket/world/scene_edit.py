"""One edit of a scene, and the random choices that every kind of edit shares: wording, color and strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .drawing import COLOUR_NAMES, COLOURS, random_colour
from .scenes import Scene, caption, render

Filter = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Edit:
    """One edit: its words, the scene after it, filters for the drawn image, and their names in a caption."""

    kind: str
    words: str
    scene: Scene
    filters: tuple[Filter, ...] = ()
    phrases: tuple[str, ...] = ()

    def render(self) -> np.ndarray:
        """Draws the image after the edit."""
        image = render(self.scene)
        for change in self.filters:
            image = change(image)
        return image.astype(np.float32)

    def caption(self, rng: np.random.Generator) -> str:
        """Captions the image after the edit: the scene, then the effects ("a red circle at night")."""
        return " ".join((caption(self.scene, rng), *self.phrases))


def pick(rng: np.random.Generator, *wordings: str) -> str:
    """Chooses one wording."""
    return wordings[rng.integers(len(wordings))]


def choose_colour(
    rng: np.random.Generator, vague: bool, avoid: Callable[[str], bool] = lambda name: False
) -> tuple[str, np.ndarray]:
    """Returns a color name and its color: with `vague` an arbitrary color and an empty name."""
    if vague:
        return "", random_colour(rng)
    while True:
        name = COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))]
        if not avoid(name):
            return name, COLOURS[name]


def choose_strength(
    rng: np.random.Generator, low: float, high: float, words: str, vague: bool
) -> tuple[float, str]:
    """Samples a strength and names it: "~" in `words` becomes "a little ", "much ", or nothing."""
    share = rng.random()
    scale = ""
    if not vague and share < 0.3:
        scale = "a little "
    elif not vague and share > 0.7:
        scale = "much "
    return float(low + share * (high - low)), words.replace("~", scale)
