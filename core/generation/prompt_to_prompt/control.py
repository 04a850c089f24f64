"""How much of the source image's attention a target image takes over, and when."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...devices import to_device
from ...errors import BuildError
from .alignment import Alignment, align
from .words import Caption, phrase_words, read_caption

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

# Of p steps 0.3 * 10 is 2.9999999999999996; it means 3.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ControlSettings:
    """Prompt-to-prompt control (Hertz et al. 2022, section 3). A share s acts in the first floor(s * steps)
    steps. The default values are those of the authors' examples."""

    cross: float = 0.8
    """Share of the steps in which tokens take over the source's cross-attention maps."""
    replaced: float | None = None
    """The same for words that stand in place of others; None as ``cross``."""
    words: tuple[tuple[str, float], ...] = ()
    """The same for single words or phrases of the target caption."""
    self_attention: float = 0.4
    """Share of the steps in which the source's self-attention maps are used."""
    self_pixels: int = 32
    """Self-attention is injected in layers where a position covers at least this many pixels along a side."""
    null_branch: bool = False
    """Whether self-attention is injected in the branch without text too."""
    replace: bool = True
    """Whether words that replace others take over their cross-attention. False is the paper's refinement."""
    weights: tuple[tuple[str, float], ...] = ()
    """Factors of the cross-attention of words of the target caption, in all steps (re-weighting)."""
    source_caption: float = 0.0
    """Share of the first steps in which the target image is made from the source caption. With all three
    shares at 1 it is the source image: attention maps alone leave the target's values in place."""

    def __post_init__(self) -> None:
        shares = {"cross": self.cross, "self_attention": self.self_attention, **dict(self.words)}
        shares |= {"source_caption": self.source_caption, "replaced": self.replaced or 0.0}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise BuildError(f"Prompt-to-prompt: the share '{name}' is {share}; shares run from 0 to 1.")
        if self.self_pixels < 1:
            raise BuildError(f"Prompt-to-prompt: {self.self_pixels} pixels are out of range; at least 1.")


IP2P_CONTROL = ControlSettings(cross=0.0, self_attention=0.5, self_pixels=1, null_branch=True)
"""InstructPix2Pix's code: self-attention of all layers and both branches, and no cross-attention."""

ULTRAEDIT_CONTROL = ControlSettings(cross=0.5, self_attention=0.5, replace=False)
"""UltraEdit's code: refinement, with one share for both kinds of attention."""


@dataclass(frozen=True)
class PairControl:
    """The control of one pair in a run of ``steps`` steps."""

    settings: ControlSettings
    steps: int
    alignment: Alignment
    cross_steps: Tensor
    """[L]: in how many steps each target token takes attention over."""
    weights: Tensor
    """[L]: factor of each target token's attention."""

    def taken(self, step: int) -> Tensor | None:
        """[L, L] what target tokens (columns) take over from source tokens (rows); None for nothing."""
        over = self._over(step)
        return self.alignment.transfer * (over * self.weights) if bool(over.any()) else None

    def own(self, step: int) -> Tensor | None:
        """[L]: factor of the attention that target tokens keep; None for 1."""
        if self.uses_source_caption(step):
            return None
        factors = ~self._over(step) * self.weights
        return None if bool((factors == 1).all()) else factors

    def injects_self(self, step: int) -> bool:
        """Whether self-attention is injected in a step."""
        return step < steps_of(self.settings.self_attention, self.steps)

    def uses_source_caption(self, step: int) -> bool:
        """Whether the target image is made from the source caption in a step."""
        return step < steps_of(self.settings.source_caption, self.steps)

    def _over(self, step: int) -> Tensor:
        # Tokens of the source caption have their own attention already.
        if self.uses_source_caption(step):
            return torch.zeros_like(self.alignment.has_source)
        return self.alignment.has_source & (self.cross_steps > step)


def steps_of(share: float, steps: int) -> int:
    """Returns the number of steps in a share of them, rounded down."""
    return int(share * steps + _ROUNDING)


def pair_control(
    captions: tuple[str, str], settings: ControlSettings, steps: int, tokenizer: "CLIPTokenizer"
) -> PairControl:
    """Prepares the control of a pair.

    Args:
        captions: of the source and the target.
        settings: what is taken over.
        steps: number of steps that are run.
        tokenizer: the model's.

    Raises:
        BuildError: a word of the settings is not in the target caption.
    """
    source, target = (read_caption(text, tokenizer) for text in captions)
    alignment = align(source, target, settings.replace)
    cross_steps = torch.full((target.window,), steps_of(settings.cross, steps))
    if settings.replaced is not None:
        cross_steps[alignment.is_replacement] = steps_of(settings.replaced, steps)
    for phrase, share in settings.words:
        cross_steps[_tokens(phrase, target, tokenizer)] = steps_of(share, steps)
    weights = torch.ones(target.window)
    for phrase, factor in settings.weights:
        weights[_tokens(phrase, target, tokenizer)] = factor
    return PairControl(settings, steps, alignment, cross_steps, weights)


def _tokens(phrase: str, target: Caption, tokenizer: "CLIPTokenizer") -> list[int]:
    tokens = target.find(phrase_words(phrase, tokenizer))
    if not tokens:
        caption = " ".join(word.text for word in target.words)
        raise BuildError(f"Prompt-to-prompt: '{phrase}' is not in the target caption '{caption[:200]}'.")
    return tokens


@dataclass(frozen=True)
class StepControl:
    """What attention layers do in one step, for a batch of N pairs.

    The batch has rows [N sources, N targets], after as many rows without text if ``has_null``.
    """

    pairs: int
    has_null: bool
    taken: Tensor | None
    """[N, 1, L, L]: the part of the values of each target token (column) that meets the source's attention
    to each source token (row); None if no token takes anything over."""
    own: Tensor | None
    """[N, 1, L, 1]: factor of the values that meet the target's own attention; None for 1."""
    self_pixels: Tensor | None
    """[N] on the CPU: pixels of a position's side from which on self-attention is injected, infinite for
    never; None if no pair does."""
    self_null: Tensor | None
    """The same for rows without text."""
    pixels: int
    """Pixels of an image."""

    @property
    def sources(self) -> slice:
        """Rows of the sources, with text."""
        start = 2 * self.pairs if self.has_null else 0
        return slice(start, start + self.pairs)

    @property
    def targets(self) -> slice:
        """Rows of the targets, with text."""
        start = self.sources.stop
        return slice(start, start + self.pairs)

    @property
    def changes_cross(self) -> bool:
        """Whether cross-attention differs from the model's own."""
        return self.taken is not None or self.own is not None


def step_control(
    pairs: Sequence[PairControl], step: int, has_null: bool, pixels: int, like: Tensor
) -> StepControl:
    """Prepares the control of one step.

    Args:
        pairs: of the batch.
        step: counted from 0.
        has_null: whether the batch has rows without text.
        pixels: pixels of an image.
        like: has the device and dtype of the attention layers.
    """
    size = len(pairs[0].weights)
    taken = _stacked([pair.taken(step) for pair in pairs], torch.zeros(size, size), like)
    own = _stacked([pair.own(step) for pair in pairs], torch.ones(size), like)
    own = None if own is None else own[..., None]
    limits = [float(p.settings.self_pixels) if p.injects_self(step) else float("inf") for p in pairs]
    null = [limit if p.settings.null_branch else float("inf") for p, limit in zip(pairs, limits, strict=True)]

    self_pixels = None if min(limits) == float("inf") else torch.tensor(limits)
    self_null = None if min(null) == float("inf") or not has_null else torch.tensor(null)
    return StepControl(len(pairs), has_null, taken, own, self_pixels, self_null, pixels)


def _stacked(tensors: Sequence[Tensor | None], default: Tensor, like: Tensor) -> Tensor | None:
    """[N, 1, ...] with the default where there is none; None if there is none at all."""
    if all(each is None for each in tensors):
        return None
    stacked = torch.stack([default if each is None else each for each in tensors])[:, None]
    return to_device(stacked.to(like.dtype), like.device)
