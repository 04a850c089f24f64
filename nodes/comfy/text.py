"""Texts through a CLIP: states, pooled states, tokens."""

from typing import Any

import comfy.sd
from torch import Tensor

from ...core.errors import LearningError
from .patch import Conditioning


def encode(clip: comfy.sd.CLIP, text: str) -> Conditioning:
    """A text as CONDITIONING, as CLIP Text Encode does it."""
    return [[states, options] for states, options in clip.encode_from_tokens_scheduled(clip.tokenize(text))]


def encode_window(clip: comfy.sd.CLIP, text: str) -> tuple[Tensor, Tensor | None]:
    """A text's states [L, D], one window of the text encoder, and its pooled states [1, D].

    Raises:
        LearningError: it is too long for one window.
    """
    windows = next(iter(clip.tokenize(text).values()))
    if len(windows) != 1:
        raise LearningError(f"Init text: '{text[:60]}…' is longer than the {len(windows[0])} tokens the text encoder takes at once. Shorten it.")
    (states, options), *_ = encode(clip, text)
    return states[0].clone(), options.get("pooled_output")


def count_tokens(clip: comfy.sd.CLIP, text: str) -> int:
    """Tokens of a text, without start and end."""
    (first, *_), (empty, *_) = (next(iter(clip.tokenize(words).values())) for words in (text, ""))
    ids: list[Any] = [token for token, _ in first]
    end = empty[1][0]
    return next((place for place, token in enumerate(ids) if place and isinstance(token, int) and token == end), len(ids)) - 1
