"""Settings of a learning run and the presets that hold measured or published values."""

from dataclasses import dataclass
from typing import Literal

from ..errors import LearningError
from ..models.families import POCKET as POCKET_FAMILY


@dataclass(frozen=True)
class LearningSettings:
    """How an instruction is learned.

    Raises:
        LearningError: a value is out of its range.
    """

    tokens: int | None = 16
    """m, learned rows; None takes the number of the init phrase's tokens, as the paper does (10 when the phrase is empty)."""
    segments: int = 5
    """j, timestep segments."""
    steps: int = 400
    """Optimiser steps; each trains all segments at once, one sample a segment."""
    learning_rate: float = 3e-2
    final_learning_rate: float = 3e-3
    """Reached by linear decay on the last step."""
    objective: Literal["plain", "guided"] = "plain"
    """``plain``: Eq. 5 on the instructed branch. ``guided``: on the three-branch prediction of Eq. 3."""
    parametrisation: Literal["shared", "separate"] = "shared"
    """``separate``: gamma_j of its own for every segment (the paper). ``shared``: gamma_j = gamma + delta_j, all learned."""
    weighting: Literal["min_snr", "none"] = "min_snr"
    include_bos: bool = False
    """Learn from row 0, the start-of-text row, instead of row 1."""
    text_scale: float = 2.0
    """s_T of the guided objective."""
    image_scale: float = 1.5
    """s_I of the guided objective."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("tokens", 1, 4096), ("segments", 1, 1000), ("steps", 1, 1_000_000)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise LearningError(f"Learning settings: {name} is {value}, it must lie between {low} and {high}.")
        for name in ("learning_rate", "final_learning_rate"):
            value = getattr(self, name)
            if not 0 < value <= 10:
                raise LearningError(f"Learning settings: {name} is {value}, it must be above 0 and at most 10.")
        for name, known in (("objective", ("plain", "guided")), ("parametrisation", ("shared", "separate")), ("weighting", ("min_snr", "none"))):
            if getattr(self, name) not in known:
                raise LearningError(f"Learning settings: {name} is '{getattr(self, name)}', it must be one of {', '.join(known)}.")

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0 .. steps-1."""
        progress = step / max(self.steps - 1, 1)
        return self.learning_rate + (self.final_learning_rate - self.learning_rate) * progress


PAPER = LearningSettings(
    tokens=None,
    steps=1000,
    learning_rate=1e-3,
    final_learning_rate=1e-3,
    objective="plain",
    parametrisation="separate",
    weighting="none",
    text_scale=7.5,
    image_scale=1.5,
)
"""The paper's: 1000 steps for each of 5 segments (here at once), lr 1e-3, m = tokens of the init phrase, separate segments."""

POCKET = LearningSettings()
"""What served the built-in model best."""

PRESETS = {"pocket": POCKET, "paper": PAPER}


def preset_for(family: str) -> LearningSettings:
    """What suits a model family: measured settings for the pocket editor, the paper's for full-size models."""
    return POCKET if family == POCKET_FAMILY.name else PAPER
