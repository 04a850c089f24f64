"""Words, Visii, InstructBrush and its ablations (Tables 1, 2 and 4 of InstructBrush)."""

from __future__ import annotations

from dataclasses import replace

from .base import Edited, EffectEditor, Method, recipe_of


def _words(editor: EffectEditor, seed: int) -> Edited:
    return editor.by_words(seed)


def _visii(editor: EffectEditor, seed: int, shots: int | None = None) -> Edited:
    pairs = editor.pairs(shots)
    return editor.by_learning(editor.models.settings("text", seed), pairs, editor.caption(pairs, seed))


def _visii_one_shot(editor: EffectEditor, seed: int) -> Edited:
    return _visii(editor, seed, 1)


def _instructbrush(editor: EffectEditor, seed: int, shots: int | None = None) -> Edited:
    pairs = editor.pairs(shots)
    return editor.by_learning(editor.models.settings("attention", seed), pairs, editor.phrase(pairs))


def _adapter(editor: EffectEditor, seed: int) -> Edited:
    pairs = editor.pairs()
    return editor.by_learning(editor.models.settings("adapter", seed), pairs, editor.phrase(pairs))


def _one_shot(editor: EffectEditor, seed: int) -> Edited:
    return _instructbrush(editor, seed, 1)


def _no_attention(editor: EffectEditor, seed: int) -> Edited:
    """InstructBrush in the text space, with the learning rate of that space."""
    full = editor.models.settings("attention", seed)
    text = editor.models.settings("text", seed)
    settings = replace(
        full, space="text", learning_rate=text.learning_rate, final_learning_rate=text.final_learning_rate
    )
    return editor.by_learning(settings, editor.pairs(), editor.phrase(editor.pairs()))


def _no_time(editor: EffectEditor, seed: int) -> Edited:
    """InstructBrush with one segment, which sees as many samples as all segments together."""
    full = editor.models.settings("attention", seed)
    settings = replace(full, segments=1, batch=full.segments * full.batch, parametrisation="separate")
    return editor.by_learning(settings, editor.pairs(), editor.phrase(editor.pairs()))


def _no_init(editor: EffectEditor, seed: int) -> Edited:
    pairs = editor.pairs()
    return editor.by_learning(editor.models.settings("attention", seed), pairs, editor.caption(pairs, seed))


_attention = recipe_of("attention")
_text = recipe_of("text")

LEARNED = (
    Method("words", "IP2P", "the base editor with the benchmark's words", _words, lambda models: {}),
    Method(
        "visii",
        "Visii",
        "text states from a caption of the images after the edit, with the CLIP direction loss",
        _visii,
        _text,
    ),
    Method(
        "instructbrush",
        "Ours",
        "keys and values of every layer, in time segments, from unique phrases",
        _instructbrush,
        _attention,
    ),
    Method(
        "adapter",
        "Adapter",
        "low-rank residuals in every attention layer, and keys and values, from unique phrases",
        _adapter,
        recipe_of("adapter"),
    ),
    Method(
        "no_attention",
        "w/o Attn",
        "as InstructBrush, but text states instead of keys and values",
        _no_attention,
        recipe_of("attention", "text"),
    ),
    Method("no_time", "w/o Time", "as InstructBrush, but one segment", _no_time, _attention),
    Method(
        "no_init",
        "w/o Init",
        "as InstructBrush, but from a caption of the images after the edit",
        _no_init,
        _attention,
    ),
    Method(
        "one_shot", "Ours (one-shot)", "as InstructBrush, from the first pair only", _one_shot, _attention
    ),
    Method(
        "visii_one_shot", "Visii (one-shot)", "as Visii, from the first pair only", _visii_one_shot, _text
    ),
)
