"""Texts through a CLIP: states, pooled states, tokens."""

from collections.abc import Sequence
from typing import Any

import comfy.sd
import torch
from torch import Tensor

from .instruction_patch import Conditioning

_TEXTS_AT_ONCE = 32


def encode(clip: comfy.sd.CLIP, text: str) -> Conditioning:
    """A text as CONDITIONING, as CLIP Text Encode does it."""
    return [[states, options] for states, options in clip.encode_from_tokens_scheduled(clip.tokenize(text))]


def encode_window(clip: comfy.sd.CLIP, text: str) -> tuple[Tensor, Tensor | None]:
    """The states [L, D] of a text's first window, and the pooled states [1, D] of the text."""
    first_window = next(iter(clip.tokenize(text).values()))[0]
    (states, options), *_ = encode(clip, text)
    return states[0, : len(first_window)].clone(), options.get("pooled_output")


def count_tokens(clip: comfy.sd.CLIP, text: str) -> int:
    """Tokens of a text's first window, without start and end."""
    return count_in_windows(clip, text)[0]


def count_in_windows(clip: comfy.sd.CLIP, text: str) -> list[int]:
    """Tokens of every window that a text takes, without start and end."""
    windows, (empty, *_) = (next(iter(clip.tokenize(words).values())) for words in (text, ""))
    end = empty[1][0]
    counts = []
    for window in windows:
        ids: list[Any] = [token for token, *_ in window]
        counts.append(
            next(
                (
                    place
                    for place, token in enumerate(ids)
                    if place and isinstance(token, int) and token == end
                ),
                len(ids),
            )
            - 1
        )
    return counts


def encode_first_windows(clip: comfy.sd.CLIP, texts: Sequence[str]) -> Tensor:
    """The states of the first window of every text, [N, L, D], on the CPU; a text encoder takes several at once."""
    encoded = []
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        tokenised = [clip.tokenize(text) for text in texts[first : first + _TEXTS_AT_ONCE]]
        # As windows of one long text, which ComfyUI strings together along the tokens.
        states: Any = clip.encode_from_tokens(
            {key: [tokens[key][0] for tokens in tokenised] for key in tokenised[0]}
        )
        encoded.append(states[0].unflatten(0, (len(tokenised), -1)).float().cpu())
    return torch.cat(encoded)
