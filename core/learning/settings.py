"""Settings of a learning run and the presets that hold measured or published values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from ..diffusion.schedule import SEEDS
from ..errors import LearningError
from ..models.families import POCKET as POCKET_FAMILY

_CHOICES = {
    "space": ("attention", "text"),
    "objective": ("plain", "guided"),
    "parametrisation": ("shared", "separate"),
    "weighting": ("min_snr", "none"),
    "noise": ("fresh", "fixed"),
}


@dataclass(frozen=True)
class LearningSettings:
    """How an instruction is learned.

    Raises:
        LearningError: a value is out of its range.
    """

    space: Literal["attention", "text"] = "attention"
    """``attention``: keys and values of every layer (InstructBrush). ``text``: the text encoder's states (Visii)."""
    tokens: int | None = 16
    """m, learned rows; None takes the number of the init phrase's tokens, as the paper does (10 when the phrase is empty)."""
    segments: int = 5
    """j, timestep segments."""
    steps: int = 400
    """Optimizer steps; each trains all segments at once."""
    batch: int = 1
    """Samples of every segment in a step."""
    learning_rate: float = 6e-2
    final_learning_rate: float = 6e-3
    """Reached by linear decay on the last step."""
    objective: Literal["plain", "guided"] = "plain"
    """``plain``: Eq. 5 on the instructed branch. ``guided``: on the three-branch prediction of Eq. 3."""
    parametrisation: Literal["shared", "separate"] = "shared"
    """``separate``: gamma_j of its own for every segment (the paper). ``shared``: gamma_j = gamma + delta_j, all learned."""
    weighting: Literal["min_snr", "none"] = "min_snr"
    noise: Literal["fresh", "fixed"] = "fresh"
    """``fresh``: a random pair and new noise for every sample. ``fixed``: every timestep keeps its noise, and its pair t mod n (Visii)."""
    noise_weight: float = 1.0
    """Weight of the noise prediction error."""
    direction_weight: float = 0.0
    """Weight of ``1 - cos`` between what the text states say and how the images differ in CLIP space (Visii; in the space of text)."""
    clamp_direction: bool = False
    """Cut the cosine off at 0.5, as Visii's published code does: beyond it the direction teaches nothing more."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient."""
    include_bos: bool = False
    """Learn from row 0, the start-of-text row, instead of row 1."""
    text_scale: float = 2.0
    """s_T of the guided objective."""
    image_scale: float = 1.5
    """s_I of the guided objective."""
    seed: int = 0

    def __post_init__(self) -> None:
        whole = (
            ("tokens", 1, 4096),
            ("segments", 1, 1000),
            ("steps", 1, 1_000_000),
            ("batch", 1, 1024),
            ("seed", 0, SEEDS - 1),
        )
        for name, low, high in whole:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise LearningError(
                    f"Learning settings: {name} is {value}, it must lie between {low} and {high}."
                )
        for name in ("learning_rate", "final_learning_rate"):
            value = getattr(self, name)
            if not 0 < value <= 10:
                raise LearningError(
                    f"Learning settings: {name} is {value}, it must be above 0 and at most 10."
                )
        for name in ("noise_weight", "direction_weight"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise LearningError(
                    f"Learning settings: {name} is {getattr(self, name)}, it must lie between 0 and 1000000."
                )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise LearningError(
                    f"Learning settings: {name} is '{getattr(self, name)}', it must be one of {', '.join(known)}."
                )
        if self.direction_weight and self.space == "attention":
            raise LearningError(
                "Learning settings: direction_weight acts on text states. Set it to 0, or space to 'text'."
            )

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what a step learns from: not how many there are, nor the guidance of previews."""
        idle = {"steps"}
        if self.objective == "plain":
            idle |= {"text_scale", "image_scale"}
        if not self.direction_weight:
            idle.add("clamp_direction")
        return {name: value for name, value in asdict(self).items() if name not in idle}

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

VISII = LearningSettings(
    space="text",
    tokens=None,
    segments=1,
    steps=1000,
    learning_rate=1e-3,
    final_learning_rate=1e-3,
    objective="guided",
    parametrisation="separate",
    weighting="none",
    noise="fixed",
    noise_weight=4.0,
    direction_weight=0.1,
    clip_norm=1.0,
    text_scale=7.5,
    image_scale=1.5,
)
"""Visii's: the rows of the init phrase, every timestep once in 1000 steps with noise of its own, guided error and CLIP direction."""

POCKET_TEXT = LearningSettings(
    space="text",
    segments=1,
    batch=5,
    steps=300,
    learning_rate=8e-2,
    final_learning_rate=8e-3,
    objective="plain",
    parametrisation="separate",
    noise_weight=4.0,
    direction_weight=0.1,
    clip_norm=1.0,
)
"""Visii on the built-in model: as many samples as its settings for keys and values see, and the objective that served it best there."""

PRESETS = {"attention": {"pocket": POCKET, "paper": PAPER}, "text": {"pocket": POCKET_TEXT, "paper": VISII}}
"""Space -> name -> settings."""


def preset_for(family: str, space: str = "attention") -> LearningSettings:
    """What suits a model family: measured settings for the pocket editor, the papers' for full-size models."""
    return PRESETS[space]["pocket" if family == POCKET_FAMILY.name else "paper"]


def read_changes(texts: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """Read ``SPACE.NAME=VALUE`` (``attention.tokens=8``, ``text.clip_norm=null``) into settings to change, by space.

    Raises:
        LearningError: no such space or setting, or a value that the setting does not take.
    """
    changes: dict[str, dict[str, Any]] = {space: {} for space in PRESETS}
    names = [field.name for field in fields(LearningSettings) if field.name not in ("space", "seed")]
    for text in texts:
        key, _, written = text.partition("=")
        space, _, name = key.partition(".")
        if space not in changes or name not in names:
            raise LearningError(
                f"Learning settings: '{text}' is not SPACE.NAME=VALUE with a space of {', '.join(changes)} and a name of {', '.join(names)}."
            )
        try:
            value = json.loads(written)
        except json.JSONDecodeError:
            value = written
        changes[space][name] = value
        default = getattr(LearningSettings(), name)
        takes = (
            (type(default),)
            if isinstance(default, bool | str)
            else (int,)
            if isinstance(default, int)
            else (int, float)
        )
        if type(value) not in takes and not (value is None and name in ("tokens", "clip_norm")):
            raise LearningError(
                f"Learning settings: {key} is '{written}', it must be of type {takes[-1].__name__}."
            )
        # Checks the value itself.
        replace(PRESETS[space]["pocket"], **{name: value})
    return changes
