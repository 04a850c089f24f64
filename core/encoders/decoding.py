"""Answers of a language model as text: the most probable tokens, or tokens drawn with a seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..progress import Progress


@dataclass(frozen=True)
class Decoding:
    """How the tokens of an answer are chosen."""

    most_tokens: int = 200
    """Largest number of tokens in the answer."""
    temperature: float = 0.0
    """0 takes the most probable token each time."""
    seed: int = 0
    """Decides what is drawn at a temperature above 0."""


@dataclass(frozen=True)
class Decoded:
    """An answer."""

    text: str
    cut_off: bool
    """Whether it reached its length limit."""
    input_tokens: int
    output_tokens: int


@torch.no_grad()
def decode(
    network: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    decoding: Decoding,
    progress: Progress | None = None,
) -> Decoded:
    """Answers a chat. Deterministic, and leaves torch's generators as they are.

    Args:
        network: a model of transformers.
        tokenizer: its tokenizer.
        inputs: one chat as the network's inputs, with ``input_ids`` [1, L].
        decoding: how tokens are chosen.
        progress: called after every token.
    """
    from transformers import StoppingCriteriaList

    start = inputs["input_ids"].shape[1]

    def report(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        if progress:
            progress(ids.shape[1] - start, decoding.most_tokens)
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    criteria: Any = StoppingCriteriaList([report])  # type: ignore[list-item]
    drawing: dict[str, Any] = {"do_sample": False}
    if decoding.temperature > 0:
        drawing = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
    device = inputs["input_ids"].device
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=decoding.temperature > 0):
        if decoding.temperature > 0:
            torch.manual_seed(decoding.seed)
        ids = network.generate(
            **inputs,
            max_new_tokens=decoding.most_tokens,
            num_beams=1,
            stopping_criteria=criteria,
            **drawing,
        )
    answer = ids[0, start:]
    ends = network.generation_config.eos_token_id
    ended = len(answer) > 0 and int(answer[-1]) in (ends if isinstance(ends, list) else [ends])
    text = str(tokenizer.decode(answer, skip_special_tokens=True)).strip()
    return Decoded(text, not ended and len(answer) >= decoding.most_tokens, start, len(answer))
