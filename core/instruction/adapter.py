"""What the adapter space learns: low-rank residuals on the projections of attention layers, and bypasses.

Every attention layer projects its inputs ``x`` to queries, keys, values and its output. With the learned
``D`` [r, in] and ``U`` [r, out] of a projection, an instruction of strength ``s`` computes::

    y' = W x + s (x D^T) U

This is a LoRA that travels with the conditioning instead of the model's weights: it acts in the rows of a
model call that carry the instruction, and nowhere else. A bypass adds ``s gelu(x D^T) U`` to the output of a
layer with the queries' input ``x``, which a linear residual cannot do.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor
from torch.nn.functional import gelu

from ..errors import InstructionError
from ..models.attention_sites import Site

Place = Literal["q", "k", "v", "out", "bypass"]
PLACES: tuple[Place, ...] = ("q", "k", "v", "out", "bypass")

Adapter = Mapping[str, Tensor]
"""``<layer>.<place>.down`` -> D [j or 1, r, in], and ``.up`` -> U [j or 1, r, out]. The first dimension is 1
if all segments share the residuals."""


def self_attention_of(site: str) -> str:
    """The name of the self-attention layer beside a cross-attention layer."""
    return f"{site.removesuffix('attn2')}attn1"


def adapter_widths(sites: Iterable[Site]) -> dict[str, int]:
    """The width of every tensor that an adapter of a model can have, by name."""
    widths: dict[str, int] = {}
    for site in sites:
        for layer, context_width in (
            (self_attention_of(site.name), site.width),
            (site.name, site.context_width),
        ):
            for place in PLACES:
                name = f"{layer}.{place}"
                widths[f"{name}.down"] = context_width if place in ("k", "v") else site.width
                widths[f"{name}.up"] = site.width
    return widths


def check_adapter(adapter: Adapter, segments: int) -> None:
    """Checks names and shapes.

    Raises:
        InstructionError: a name is none of an adapter, a tensor's partner is missing, or shapes disagree.
    """
    for name, tensor in adapter.items():
        stem, _, side = name.rpartition(".")
        layer, _, place = stem.rpartition(".")
        if place not in PLACES or not layer.endswith((".attn1", ".attn2")):
            raise InstructionError(
                f"Instruction: its adapter holds {name}, which is no place of an attention layer."
            )
        partner = f"{stem}.{'up' if side == 'down' else 'down'}"
        if side not in ("down", "up") or partner not in adapter:
            raise InstructionError(f"Instruction: its adapter holds {name} without {partner}.")
        shape = tuple(tensor.shape)
        if len(shape) != 3 or shape[0] not in (1, segments) or shape[:2] != tuple(adapter[partner].shape[:2]):
            raise InstructionError(
                f"Instruction: {name} has shape {shape}, expected [1 or {segments} segments, rank, width] "
                f"and the same segments and rank as {partner}, which has {tuple(adapter[partner].shape)}."
            )


def residual(place: Place, inputs: Tensor, down: Tensor, up: Tensor, factor: Tensor | None = None) -> Tensor:
    """``factor (x D^T) U``, or ``factor gelu(x D^T) U`` for a bypass.

    Args:
        place: what it belongs to.
        inputs: x, [B, n, in].
        down, up: D and U, [1 or B, r, in] and [1 or B, r, out].
        factor: [B, 1, 1]; None is 1.
    """
    # Some layers compute in another dtype than the text states.
    down = down.to(inputs.dtype)
    up = up.to(inputs.dtype)
    if down.shape[0] == 1:
        # One product for the whole batch is faster than a batch of products.
        down = down[0]
        up = up[0]
    reduced = inputs @ down.mT
    if place == "bypass":
        reduced = gelu(reduced)
    if factor is not None:
        reduced = reduced * factor.to(inputs.dtype)
    return reduced @ up
