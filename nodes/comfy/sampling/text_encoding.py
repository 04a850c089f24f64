"""Encodes text with a CLIP, and counts its tokens.

A tokenizer splits long text into windows of equal length, which the text encoder reads separately.
"""

from collections.abc import Sequence
from typing import Any

import torch
from comfy.sd import CLIP
from torch import Tensor

from .instruction_patch import Conditioning

_TEXTS_AT_ONCE = 32


def encode(clip: CLIP, text: str) -> Conditioning:
    """Encodes a text as CONDITIONING, like CLIP Text Encode."""
    return [[states, options] for states, options in clip.encode_from_tokens_scheduled(clip.tokenize(text))]


def encode_window(clip: CLIP, text: str) -> tuple[Tensor, Tensor | None]:
    """Returns the states [L, D] of a text's first window, and the pooled states [1, D] of the text."""
    first_window = _windows(clip, text)[0]
    states, options = encode(clip, text)[0]
    return states[0, : len(first_window)].clone(), options.get("pooled_output")


def count_tokens(clip: CLIP, text: str) -> int:
    """Counts the tokens of a text's first window, without start and end tokens."""
    return count_in_windows(clip, text)[0]


def count_in_windows(clip: CLIP, text: str) -> list[int]:
    """Counts the tokens of each window of a text, without start and end tokens."""
    end = _windows(clip, "")[0][1][0]
    counts = []
    for window in _windows(clip, text):
        length = len(window)
        for place, (token, *_) in enumerate(window):
            # The start token may equal the end token. Embeddings among the tokens are tensors.
            if place and isinstance(token, int) and token == end:
                length = place
                break
        counts.append(length - 1)
    return counts


def encode_first_windows(clip: CLIP, texts: Sequence[str]) -> Tensor:
    """Encodes the first window of every text, [N, L, D] on the CPU, several texts at once."""
    encoded = []
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        tokenized = [clip.tokenize(text) for text in texts[first : first + _TEXTS_AT_ONCE]]
        # Passed as windows of one long text. ComfyUI concatenates their states along the tokens.
        states: Any = clip.encode_from_tokens(
            {key: [tokens[key][0] for tokens in tokenized] for key in tokenized[0]}
        )
        encoded.append(states[0].unflatten(0, (len(tokenized), -1)).float().cpu())
    return torch.cat(encoded)


def _windows(clip: CLIP, text: str) -> list[Any]:
    """Windows of a text, from the first of the CLIP's tokenizers."""
    return next(iter(clip.tokenize(text).values()))
