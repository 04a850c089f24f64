"""InstructBrush with the paper's own settings, whatever the model: both readings of the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .base import BenchmarkModels, Edited, EffectEditor, Method


def _paper(editor: EffectEditor, seed: int, preset: str) -> Edited:
    settings = editor.models.paper_settings(preset, seed)
    sampling = replace(
        editor.models.sampling,
        text_scale=settings.text_scale,
        image_scale=settings.image_scale,
        fixed_noise=False,
    )
    pairs = editor.pairs()
    return editor.by_learning(settings, pairs, editor.phrase(pairs), sampling)


def _recipe(models: BenchmarkModels, preset: str) -> dict[str, Any]:
    settings = models.paper_settings(preset, 0).stored()
    return {preset: settings, "eta": models.phrases.eta, "lists": models.phrases.lists}


PAPER = (
    Method(
        "instructbrush_paper",
        "Ours (paper)",
        "InstructBrush with the paper's settings: rate 0.001, separate segments, Eq. 5 as printed, s_T 7.5",
        lambda editor, seed: _paper(editor, seed, "paper"),
        lambda models: _recipe(models, "paper"),
    ),
    Method(
        "instructbrush_paper_guided",
        "Ours (guided)",
        "the same, but learned on the guided prediction with s_T 7.5 and s_I 1.5, as Visii learns",
        lambda editor, seed: _paper(editor, seed, "paper_guided"),
        lambda models: _recipe(models, "paper_guided"),
    ),
)
