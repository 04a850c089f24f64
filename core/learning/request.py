"""What a learning run needs: model, pairs, init text, settings and CLIP direction."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from ..editing.denoiser import Denoiser
from ..encoders.clip import ClipModel
from ..errors import LearningError
from ..pairs.pairs import EditPairs
from .objective import Direction, PairLatents
from .settings import LearningSettings

_EMPTY_TEXT_ROWS = 10
"""Learned rows when neither the settings nor the init text say how many."""


@dataclass(frozen=True)
class InitText:
    """The text that learning starts from.

    A text longer than the text encoder's window is allowed: learning starts from the part that fits, and
    ``remark`` says so. ``text`` stays whole, for the file and for the identity of the run.
    """

    text: str
    states: Tensor
    """Text states of the window, [L, D]."""
    tokens: int = 0
    """Tokens of the whole text, without start and end."""
    tokens_in_window: int | None = None
    """Those of them in the window; None if it holds as many as fit."""

    @property
    def rows(self) -> int:
        """Tokens in the window, without start and end."""
        if self.tokens_in_window is not None:
            return self.tokens_in_window
        return min(self.tokens, len(self.states) - 2)

    @property
    def remark(self) -> str:
        """Tells the user that the text is cut; empty when it fits."""
        if self.rows == self.tokens:
            return ""
        return (
            f"The init text has {self.tokens} tokens, the text encoder reads {self.rows}. Learning starts "
            "from those; shorten the text to choose them yourself."
        )


@dataclass(frozen=True)
class LearningRequest:
    """What one run learns from, and how.

    Raises:
        LearningError: the learned rows do not fit the text window, ``only_segments`` is used with shared
            segments, or the settings have a ``direction_weight`` and ``direction`` is missing or of another
            width.
    """

    denoiser: Denoiser
    """The frozen model, of any engine."""
    latents: PairLatents
    """The pairs, encoded once, on the denoiser's device."""
    init_text: InitText
    null_context: Tensor
    """Text states of "", [L, D]."""
    settings: LearningSettings
    direction: Direction | None = None
    """How the images differ in CLIP space; see ``with_direction``."""
    only_segments: tuple[int, ...] | None = None
    """Train these segments alone (separate segments only); the others keep their initial values."""
    title: str = ""
    """Title of the instruction."""
    direction_remark: str = ""
    """Why the direction loss is left out; see ``with_direction``."""

    def __post_init__(self) -> None:
        window, width = self.init_text.states.shape
        if self.first_row + self.rows > window:
            raise LearningError(
                f"Learning: {self.rows} tokens from row {self.first_row} do not fit the text encoder's "
                f"{window} rows. Use at most {window - self.first_row} tokens."
            )
        if self.only_segments is not None and self.settings.parametrisation == "shared":
            raise LearningError(
                "Learning: shared segments are trained together. Set segments to 'separate' to train some "
                "alone."
            )
        if self.settings.direction_weight:
            _check_width(None if self.direction is None else len(self.direction.projection), width)

    @property
    def rows(self) -> int:
        """m, number of learned rows."""
        if self.settings.tokens is not None:
            return self.settings.tokens
        return self.init_text.rows or _EMPTY_TEXT_ROWS

    @property
    def first_row(self) -> int:
        """Row of the text window where the learned rows start."""
        return 0 if self.settings.include_bos else 1

    @property
    def losses(self) -> str:
        """The losses that act: ``noise``, ``direction``, or both with a comma."""
        weights = {"noise": self.settings.noise_weight, "direction": self.settings.direction_weight}
        return ", ".join(name for name, weight in weights.items() if weight)

    @property
    def remarks(self) -> list[str]:
        """What the user should know before learning starts."""
        return [remark for remark in (self.init_text.remark, self.direction_remark) if remark]

    @property
    def trained_segments(self) -> tuple[int, ...]:
        """Segments that are trained."""
        return tuple(range(self.settings.segments)) if self.only_segments is None else self.only_segments

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: the model, the pairs, the words and the settings that decide
        what a step learns."""
        pairs = hashlib.sha256(self.latents.digest.encode())
        if not self.latents.digest:
            for latent in (*self.latents.before, *self.latents.after, *self.latents.masks):
                pairs.update(latent.detach().float().cpu().numpy().tobytes())
        identity = {
            "model": self.denoiser.description.fingerprint,
            "pairs": pairs.hexdigest(),
            "words": self.init_text.text,
            "trained segments": list(self.trained_segments),
        }
        if self.direction is not None and self.settings.direction_weight:
            # Features differ in their last digits between devices, so the CLIP stands for them.
            target = self.direction.target.cpu().numpy().tobytes()
            identity["CLIP"] = self.direction.clip or hashlib.sha256(target).hexdigest()
        return identity | self.settings.decisive()

    def digest(self) -> str:
        """Hex digest of ``identity``, for file names."""
        return hashlib.sha256(repr(sorted(self.identity().items())).encode()).hexdigest()


class DirectionChoice(NamedTuple):
    """What ``with_direction`` decides."""

    settings: LearningSettings
    """The settings to use."""
    direction: Direction | None
    """The direction, if they have a weight for it."""
    remark: str = ""
    """Tells the user that the direction loss is left out, and why; empty otherwise."""


def with_direction(
    settings: LearningSettings,
    pairs: EditPairs,
    clip: ClipModel | None,
    context_width: int,
    skip_other_clip: bool = False,
) -> DirectionChoice:
    """Decides whether a run has a direction loss (Visii). The one rule for all callers.

    The loss projects the model's text states with CLIP's text projection, so it needs the CLIP that the
    model's text encoder belongs to:

    - Settings without a ``direction_weight`` have no direction.
    - Without a CLIP, ``direction_weight`` becomes 0, with a remark.
    - A CLIP of another width is an error, because the user chose it for this loss. With ``skip_other_clip``
      ``direction_weight`` becomes 0 instead, with a remark: the benchmark's CLIP is there to measure.

    Args:
        settings: how to learn.
        pairs: what to learn from.
        clip: the CLIP, on any device.
        context_width: D, width of the model's text states.
        skip_other_clip: see above.

    Raises:
        LearningError: the CLIP has another width.
    """
    if not settings.direction_weight:
        return DirectionChoice(settings, None)
    width = None if clip is None else len(clip.text_projection)
    if clip is None or (width != context_width and skip_other_clip):
        found = "there is no CLIP" if width is None else f"the CLIP projects text states {width} wide"
        remark = (
            f"The direction loss (weight {settings.direction_weight:g}) is left out: it takes the CLIP of "
            f"the model's text encoder, whose text states are {context_width} wide, and {found}. Only the "
            "noise error is minimized. Give that CLIP, or set the direction weight to 0."
        )
        return DirectionChoice(replace(settings, direction_weight=0.0), None, remark)
    _check_width(width, context_width)
    return DirectionChoice(settings, Direction.of(pairs, clip))


def _check_width(projection_width: int | None, context_width: int) -> None:
    if projection_width == context_width:
        return
    found = (
        "none was given"
        if projection_width is None
        else f"the one given projects states {projection_width} wide"
    )
    raise LearningError(
        f"Learning: the direction loss needs a CLIP model whose text states are {context_width} wide; "
        f"{found}. Connect the one that the model's text encoder belongs to, or set the direction weight to "
        "0."
    )
