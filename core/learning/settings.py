"""Settings of a learning run, and presets with measured or published values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from ..diffusion.schedule import SEEDS
from ..errors import LearningError
from ..models.families import POCKET as POCKET_FAMILY
from ..storage.json_text import parse_json

_CHOICES = {
    "space": ("attention", "text", "adapter"),
    "objective": ("plain", "guided"),
    "parametrisation": ("shared", "separate"),
    "weighting": ("snr", "none"),
    "noise": ("fresh", "fixed"),
}

FORMER_NAMES = {"weighting": {"min_snr": "snr"}}
"""Setting -> former name of a choice -> its name. Former names are accepted everywhere, see ``stored``."""
# Settings that version 0.1 did not have, and the value that learning had then.
_ADDED = {"weight_decay": 0.0, "strata": 1}
# Settings of the adapter space, which checkpoints of other spaces do not have.
_OF_ADAPTERS = ("rank", "bypass", "adapter_rate", "up_ratio")


@dataclass(frozen=True)
class LearningSettings:
    """How an instruction is learned.

    Raises:
        LearningError: a value is out of its range.
    """

    space: Literal["attention", "text", "adapter"] = "attention"
    """``attention``: keys and values of every cross-attention layer (InstructBrush). ``text``: text encoder
    states (Visii). ``adapter``: low-rank residuals in every attention layer, and keys and values unless
    ``tokens`` is 0."""
    tokens: int | None = 16
    """m, learned rows. None takes the number of the init text's tokens, as the paper does (10 if it is
    empty)."""
    rank: int = 2
    """Rank of the residuals of queries, keys, values and outputs (adapter space)."""
    bypass: int = 4
    """Rank of the bypass of every cross-attention layer; 0 has none (adapter space)."""
    segments: int = 5
    """j, timestep segments."""
    steps: int = 400
    """Optimizer steps; each trains all segments at once."""
    batch: int = 1
    """Samples of every segment in a step."""
    strata: int = 1
    """Equal ranges of a segment's timesteps that its samples come from in turn. With as many as ``batch``,
    every step sees low and high noise."""
    learning_rate: float = 6e-2
    final_learning_rate: float = 6e-3
    """Learning rate of the last step, reached by linear decay."""
    adapter_rate: float = 4e-3
    """Learning rate of D of the residuals in the first step; it falls like ``learning_rate``, which is that
    of the rows (adapter space)."""
    up_ratio: float = 4.0
    """Learning rate of U, as a multiple of that of D (LoRA+, Hayou et al. 2024; adapter space)."""
    objective: Literal["plain", "guided"] = "plain"
    """``plain``: Eq. 5 on the instructed branch. ``guided``: on the three-branch prediction of Eq. 3."""
    parametrisation: Literal["shared", "separate"] = "shared"
    """``separate``: a separate gamma_j for every segment (the paper). ``shared``: gamma_j = gamma +
    delta_j."""
    weighting: Literal["snr", "none"] = "snr"
    """Weights of the timesteps. ``snr``: ``timestep_weights`` in objective.py. ``none``: all the same (the
    papers)."""
    noise: Literal["fresh", "fixed"] = "fresh"
    """``fresh``: a random pair and new noise for every sample. ``fixed``: every timestep t always has the
    same noise, and pair t mod n (Visii)."""
    noise_weight: float = 1.0
    """Weight of the noise prediction error."""
    direction_weight: float = 0.0
    """Weight of ``1 - cos`` between the text states and the difference of the images in CLIP space (Visii;
    text space)."""
    clamp_direction: bool = False
    """Limit the cosine to 0.5, as Visii's published code does. Above it the direction has no gradient."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    include_bos: bool = False
    """Learn from row 0, the start-of-text row, instead of row 1."""
    text_scale: float = 2.0
    """s_T of the guided objective, and of previews."""
    image_scale: float = 1.5
    """s_I of the guided objective, and of previews."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, new_names in FORMER_NAMES.items():
            value = getattr(self, name)
            object.__setattr__(self, name, new_names.get(value, value))
        whole = (
            ("tokens", 0 if self.space == "adapter" else 1, 4096),
            ("rank", 0, 1024),
            ("bypass", 0, 1024),
            ("segments", 1, 1000),
            ("steps", 1, 1_000_000),
            ("batch", 1, 1024),
            ("strata", 1, 1000),
            ("seed", 0, SEEDS - 1),
        )
        for name, low, high in whole:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise LearningError(
                    f"Learning settings: {name} is {value}; it must lie between {low} and {high}."
                )
        for name in ("learning_rate", "final_learning_rate", "adapter_rate"):
            value = getattr(self, name)
            if not 0 < value <= 10:
                raise LearningError(
                    f"Learning settings: {name} is {value}; it must be above 0 and at most 10."
                )
        for name in ("noise_weight", "direction_weight"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise LearningError(
                    f"Learning settings: {name} is {getattr(self, name)}; it must lie between 0 and 1000000."
                )
        for name in ("text_scale", "image_scale"):
            if not 0 <= getattr(self, name) <= 1000:
                raise LearningError(
                    f"Learning settings: {name} is {getattr(self, name)}; it must lie between 0 and 1000."
                )
        if self.clip_norm is not None and not 0 < self.clip_norm <= 1e6:
            raise LearningError(
                f"Learning settings: clip_norm is {self.clip_norm}; it must be above 0 and at most 1000000, "
                "or null for none."
            )
        if not 0 < self.up_ratio <= 1000:
            raise LearningError(
                f"Learning settings: up_ratio is {self.up_ratio}; it must be above 0 and at most 1000."
            )
        if not 0 <= self.weight_decay <= 1:
            raise LearningError(
                f"Learning settings: weight_decay is {self.weight_decay}; it must lie between 0 and 1."
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise LearningError(
                    f"Learning settings: {name} is '{getattr(self, name)}'; it must be one of "
                    f"{', '.join(choices)}."
                )
        if self.direction_weight and self.space != "text":
            raise LearningError(
                "Learning settings: direction_weight acts on text states. Set it to 0, or space to 'text'."
            )
        if self.space == "adapter" and not self.rank and not self.bypass:
            raise LearningError(
                "Learning settings: rank and bypass are both 0, so there is no adapter. Use a rank such as 2."
            )

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what a step learns: all but the number of steps, and what does not act,
        such as the guidance scales with the plain objective."""
        idle = {"steps"}
        if self.objective == "plain":
            idle |= {"text_scale", "image_scale"}
        if not self.direction_weight:
            idle.add("clamp_direction")
        return {name: value for name, value in self.stored().items() if name not in idle}

    def acting(self) -> dict[str, Any]:
        """All settings that its space has."""
        without = () if self.space == "adapter" else _OF_ADAPTERS
        return {name: value for name, value in asdict(self).items() if name not in without}

    def stored(self) -> dict[str, Any]:
        """All settings as checkpoints and results of benchmarks keep them; those of 0.1 stay valid."""
        stored = self.acting()
        for name, value in _ADDED.items():
            if stored[name] == value:
                del stored[name]
        for name, new_names in FORMER_NAMES.items():
            former = {new: old for old, new in new_names.items()}
            stored[name] = former.get(stored[name], stored[name])
        return stored

    def changed(self, **changes: Any) -> "LearningSettings":
        """A copy with other values. The one rule for learning rates: the final rate follows a new
        ``learning_rate`` in proportion, unless ``final_learning_rate`` is given and not None.

        Raises:
            LearningError: a value is out of its range.
        """
        if changes.get("final_learning_rate") is None:
            factor = changes.get("learning_rate", self.learning_rate) / self.learning_rate
            changes["final_learning_rate"] = self.final_learning_rate * factor
        return replace(self, **changes)

    @property
    def acting_rates(self) -> str:
        """The learning rates that act, for messages."""
        if self.space != "adapter":
            return str(self.learning_rate)
        rows = f"learning_rate {self.learning_rate}, " if self.tokens else ""
        return f"{rows}adapter_rate {self.adapter_rate}"

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0 .. steps-1, of all but residuals."""
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
"""The paper's settings: 1000 steps, rate 1e-3, m = tokens of the init text, 5 separate segments (trained
together here), and Eq. 5 as it is printed."""

PAPER_GUIDED = replace(PAPER, objective="guided")
"""The other reading of the paper: the error of the guided prediction, as in Visii. Eq. 5 has no guidance, but
section 6 says "During both training and inference, we adopt" s_T = 7.5 and s_I = 1.5."""

POCKET = LearningSettings()
"""The best settings measured for the built-in model."""

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
"""Visii's settings: rows of the init text, every timestep once in 1000 steps, fixed noise, guided error, CLIP
direction. The paper names neither ``clip_norm`` nor ``weight_decay``; 1 and 0 are ours."""

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
"""Visii on the built-in model: as many samples as with ``POCKET``, and the best objective measured for it."""

POCKET_ADAPTER = LearningSettings(
    space="adapter",
    tokens=8,
    segments=1,
    batch=5,
    strata=5,
    learning_rate=3e-2,
    final_learning_rate=3e-3,
    parametrisation="separate",
)
"""The best adapter measured for the built-in model, with as many samples as with ``POCKET``."""

ADAPTER = LearningSettings(
    space="adapter",
    tokens=8,
    segments=1,
    batch=5,
    strata=5,
    steps=1000,
    learning_rate=1e-3,
    final_learning_rate=1e-4,
    adapter_rate=2e-4,
    parametrisation="separate",
    text_scale=7.5,
)
"""Adapters of full-size models. Not measured."""

PRESETS: Mapping[str, Mapping[str, LearningSettings]] = {
    "attention": {"pocket": POCKET, "paper": PAPER, "paper_guided": PAPER_GUIDED},
    "text": {"pocket": POCKET_TEXT, "paper": VISII},
    "adapter": {"pocket": POCKET_ADAPTER, "full_size": ADAPTER},
}
"""Space -> name -> settings."""
AUTO = "auto"
"""Name for the preset of the model's family."""


def preset_name(family: str, space: str = "attention", name: str = AUTO) -> str:
    """The preset that ``auto`` stands for: the one measured for the pocket editor. For full-size models the
    papers', or ``full_size`` where there is no paper."""
    if name != AUTO:
        return name
    if family == POCKET_FAMILY.name:
        return "pocket"
    return "full_size" if space == "adapter" else "paper"


def preset_for(family: str, space: str = "attention", name: str = AUTO) -> LearningSettings:
    """The settings of a preset, see ``preset_name``.

    Raises:
        LearningError: the space has no such preset.
    """
    name = preset_name(family, space, name)
    if name not in PRESETS[space]:
        raise LearningError(
            f"Learning settings: the {space} space has no preset '{name}'. Choose from {AUTO}, "
            f"{', '.join(PRESETS[space])}."
        )
    return PRESETS[space][name]


def read_changes(texts: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """Reads texts ``SPACE.NAME=VALUE`` (``attention.tokens=8``, ``text.clip_norm=null``) into changed
    settings by space, for ``LearningSettings.changed``.

    Raises:
        LearningError: a space or setting does not exist, or a setting does not take the value.
    """
    changes: dict[str, dict[str, Any]] = {space: {} for space in PRESETS}
    for text in texts:
        key, _, written = text.partition("=")
        space, _, name = key.partition(".")
        if space not in changes or name not in _names():
            raise LearningError(
                f"Learning settings: '{text}' is not SPACE.NAME=VALUE with a space of {', '.join(changes)} "
                f"and a name of {', '.join(_names())}."
            )
        changes[space][name] = _value_of(space, name, written)
    return changes


def read_changes_of(space: str, texts: Sequence[str]) -> Mapping[str, Any]:
    """Reads texts ``NAME=VALUE`` into changed settings of one space, for ``LearningSettings.changed``.

    Raises:
        LearningError: a setting does not exist, or does not take the value.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        name, _, written = text.partition("=")
        if name not in _names():
            raise LearningError(
                f"Learning settings: '{text}' is not NAME=VALUE with a name of {', '.join(_names())}."
            )
        changes[name] = _value_of(space, name, written)
    return changes


def _names(space: str = "adapter") -> list[str]:
    """The settings of a space that a text can change. Space and seed have options of their own."""
    without = ("space", "seed") if space == "adapter" else ("space", "seed", *_OF_ADAPTERS)
    return [field.name for field in fields(LearningSettings) if field.name not in without]


def _value_of(space: str, name: str, written: str) -> Any:
    if name not in _names(space):
        raise LearningError(
            f"Learning settings: {name} is a setting of the adapter space, and the {space} space is chosen. "
            "Leave it out, or choose the adapter space."
        )
    try:
        value = parse_json(written)
    except ValueError:
        value = written
    types = _types_of(name)
    if type(value) not in types and not (value is None and name in ("tokens", "clip_norm")):
        raise LearningError(
            f"Learning settings: {space}.{name} is '{written}'; it must be of type {types[-1].__name__}."
        )
    # Checks the range of the value.
    replace(PRESETS[space]["pocket"], **{name: value})
    return value


def _types_of(name: str) -> tuple[type, ...]:
    """The types that a setting takes, by its default."""
    default = getattr(LearningSettings(), name)
    if isinstance(default, bool | str):
        return (type(default),)
    return (int,) if isinstance(default, int) else (int, float)
