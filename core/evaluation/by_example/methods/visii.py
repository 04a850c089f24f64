"""The methods of Visii's Table 1: losses, init texts, numbers of pairs, and random or fixed noise.

Every method has the guidance scales of the run. With random noise, learning is as in the preset of the model,
and edits have noise of their own. With fixed noise, learning and edits have the same noise at each timestep
(section 5). The paper's preset learns with fixed noise in both cases, so both methods share what is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .base import BenchmarkModels, Edited, EffectEditor, Method

FIXED_NOISE = "_fixed_noise"
"""Ending of the methods with fixed noise."""


@dataclass(frozen=True)
class _Row:
    name: str
    pairs: int
    direction_loss: bool = True
    """Whether the CLIP loss acts beside the mean squared error."""
    from_words: bool = False
    """Whether learning starts from the words of the data set instead of a caption."""

    def text(self, fixed: bool) -> str:
        pairs = "the first pair" if self.pairs == 1 else f"the first {self.pairs} pairs"
        losses = "MSE and CLIP direction loss" if self.direction_loss else "MSE loss alone"
        start = "the data set's words" if self.from_words else "a caption of the images after the edit"
        noise = "learning's fixed noise" if fixed else "random noise"
        return f"Visii from {pairs}: {losses}, from {start}, edits with {noise}"

    def settings(self, models: BenchmarkModels, seed: int, fixed: bool) -> Any:
        settings = models.settings("text", seed)
        weight = settings.direction_weight if self.direction_loss else 0.0
        return replace(settings, direction_weight=weight, noise="fixed" if fixed else settings.noise)

    def method(self, fixed: bool) -> Method:
        return Method(
            f"{self.name}{FIXED_NOISE if fixed else ''}",
            "Visii",
            self.text(fixed),
            self._edit(fixed),
            self._recipe(fixed),
            pairs=self.pairs,
        )

    def _edit(self, fixed: bool) -> Callable[[EffectEditor, int], Edited]:
        def edit(editor: EffectEditor, seed: int) -> Edited:
            pairs = editor.pairs(self.pairs)
            init_text = editor.effect.words if self.from_words else editor.caption(pairs, seed)
            sampling = replace(editor.models.sampling, fixed_noise=fixed)
            return editor.by_learning(self.settings(editor.models, seed, fixed), pairs, init_text, sampling)

        return edit

    def _recipe(self, fixed: bool) -> Callable[[BenchmarkModels], Mapping[str, Any]]:
        return lambda models: {
            "text": self.settings(models, 0, fixed).stored(),
            "pairs": self.pairs,
            "from_words": self.from_words,
            "fixed_noise": fixed,
        }


def _caption(editor: EffectEditor, seed: int) -> Edited:
    """Row 2 of the table: the caption itself as the instruction."""
    return editor.by_text(editor.caption(editor.pairs(1), seed), seed)


_ROWS = (
    _Row("visii_mse_words", 1, direction_loss=False, from_words=True),
    _Row("visii_mse", 1, direction_loss=False),
    _Row("visii_words", 1, from_words=True),
    *(_Row(f"visii_{count}", count) for count in (1, 2, 3, 4)),
)

VISII_ROWS = (
    Method(
        "caption",
        "Caption",
        "the base editor with a caption of the first image after the edit as the instruction",
        _caption,
        lambda models: {},
    ),
    *(row.method(fixed) for row in _ROWS for fixed in (False, True)),
)
