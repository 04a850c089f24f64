"""Attention layers of a diffusers UNet under prompt-to-prompt control."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...devices import to_device
from ...errors import ModelError
from .control import StepControl

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@contextmanager
def controlled(unet: UNet2DConditionModel) -> Iterator[None]:
    """Makes a UNet accept ``cross_attention_kwargs={"control": StepControl}``.

    Its own attention processors compute every step without control, and come back at the end, also after an
    error.

    Raises:
        ModelError: an attention layer is not one of Stable Diffusion's.
    """
    before = dict(unet.attn_processors)
    processors: dict[str, Any] = {}
    for name, processor in before.items():
        layer = name.removesuffix(".processor")
        _check_layer(layer, unet.get_submodule(layer))
        processors[name] = _Attention(processor)
    unet.set_attn_processor(processors)
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def _check_layer(name: str, layer: Any) -> None:
    extras = ("group_norm", "spatial_norm", "norm_q", "norm_k", "add_k_proj", "norm_cross")
    extra = next((each for each in extras if getattr(layer, each, None)), None)
    if extra is None and layer.residual_connection:
        extra = "residual_connection"
    if extra is not None:
        raise ModelError(
            f"Prompt-to-prompt: the attention layer {name} has '{extra}', which Stable Diffusion's layers do "
            "not have. Choose a model of SD1.5's, SD2.1's or SDXL's layout."
        )


class _Attention:
    """Attention processor that takes over attention of the sources.

    No attention map is ever stored. Taking over is linear in the values, and so is the target's own
    attention, so both are ordinary attention of changed values::

        A_target' V = A_source (taken V) + A_target (own V)

    Args:
        plain: computes what is not controlled.
    """

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        control: StepControl | None = None,
    ) -> Tensor:
        crosses = encoder_hidden_states is not None
        rows = [] if control is None or crosses else _injected(control, hidden_states.shape[1])
        if control is None or not (control.changes_cross if crosses else rows):
            return self._plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, keys, values = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        batch, _, width = query.shape

        def split_heads(states: Tensor) -> Tensor:
            return states.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2)

        query, keys, values = split_heads(query), split_heads(keys), split_heads(values)
        if crosses:
            mixed = _cross_attention(query, keys, values, attn.scale, control)
        else:
            for targets, chosen in rows:
                taken = to_device(_rows_taken(batch, targets, chosen, control.pairs), query.device)
                query, keys = query[taken], keys[taken]
            mixed = F.scaled_dot_product_attention(query, keys, values, scale=attn.scale)
        mixed = mixed.transpose(1, 2).reshape(batch, -1, width).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor


def _cross_attention(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, control: StepControl
) -> Tensor:
    sources, targets = control.sources, control.targets
    kept = values
    if control.own is not None:
        kept = values.clone()
        kept[targets] *= control.own
    mixed = F.scaled_dot_product_attention(query, keys, kept, scale=scale)
    if control.taken is not None:
        mixed[targets] += F.scaled_dot_product_attention(
            query[sources], keys[sources], control.taken @ values[targets], scale=scale
        )
    return mixed


def _injected(control: StepControl, positions: int) -> list[tuple[slice, Tensor]]:
    """Target rows whose pairs, [N] bool, may use the source's self-attention in a layer."""
    side = (control.pixels / positions) ** 0.5
    rows = []
    # The limits are on the CPU, so that no step waits for the device.
    if control.self_pixels is not None and bool((control.self_pixels <= side).any()):
        rows.append((control.targets, control.self_pixels <= side))
    if control.self_null is not None and bool((control.self_null <= side).any()):
        rows.append((slice(control.pairs, 2 * control.pairs), control.self_null <= side))
    return rows


def _rows_taken(batch: int, targets: slice, chosen: Tensor, pairs: int) -> Tensor:
    """Row numbers of a batch in which chosen targets have their sources' rows, ``pairs`` rows before."""
    numbers = torch.arange(batch)
    numbers[targets] -= chosen.long() * pairs
    return numbers
