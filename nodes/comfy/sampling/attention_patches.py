"""ComfyUI's patches of attention layers, through which one model call with an injection acts.

ComfyUI shows a layer's parts to different patches: ``attn1_patch`` and ``attn2_patch`` see what is projected,
``attn1_replace`` and ``attn2_replace`` see queries, keys and values, ``attn1_output_patch`` and
``attn2_output_patch`` see the output. Keys and values need the replacement alone, an adapter needs all three.
"""

from collections.abc import Callable
from typing import Any

from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ....core.errors import InstructionError
from ....core.instruction.adapter import self_attention_of
from ....core.instruction.injection import InjectedCall
from ....core.models.attention_sites import Site

Replacement = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]

_Block = tuple[str, int, int]


class InjectedAttention:
    """Attention of one site with learned keys and values, computed by the previous replacement if any."""

    def __init__(self, site: str, call: InjectedCall, previous: Replacement | None) -> None:
        self.site = site
        self.call = call
        self.previous = previous

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        images, rows = self.call.context.shape[:2]
        if len(k) != images or k.shape[1] < rows:
            raise InstructionError(
                f"Apply Instruction: a cross-attention layer got keys of {len(k)} x {k.shape[1]} rows in a "
                f"call of {images} x {rows}. Another patch of the MODEL regroups or cuts them; remove that "
                "patch."
            )
        # Patches may append rows of their own.
        self.call.keys_values(self.site, k[:, :rows], v[:, :rows])
        return _attention(self.previous, q, k, v, extra_options)


def own_replacements(options: dict[str, Any], kind: str) -> dict[Any, Replacement]:
    """Gives a call's options replacements of one kind in a dict of their own, and returns it."""
    options["patches_replace"] = options.get("patches_replace", {}).copy()
    own = options["patches_replace"].get(kind, {}).copy()
    options["patches_replace"][kind] = own
    return own


def replacement_of(block: _Block, replacements: dict[Any, Replacement]) -> Replacement | None:
    """The replacement that ComfyUI would call: that of the layer, or else of its block."""
    return replacements.get(block, replacements.get(block[:2]))


def adapt_attention(call: InjectedCall, sites: tuple[Site, ...], options: dict[str, Any]) -> None:
    """Lets a call's adapter act in every self- and cross-attention layer.

    Args:
        call: the call.
        sites: the UNet's cross-attention layers.
        options: transformer options of the call. Dicts and lists in it are replaced, not changed.
    """
    patches = options.get("patches", {}).copy()
    options["patches"] = patches
    self_attention = {site.block: self_attention_of(site.name) for site in sites}
    cross_attention = {site.block: site.name for site in sites}
    for kind, layers in (("attn1", self_attention), ("attn2", cross_attention)):
        adapted = _AdaptedLayers(call, layers)
        # Other patches may change what is projected (token merging), and change the output back. So this one
        # is the last that sees the inputs and the first that sees the output.
        patches[f"{kind}_patch"] = [*patches.get(f"{kind}_patch", []), adapted.keep_inputs]
        patches[f"{kind}_output_patch"] = [adapted.add_to_output, *patches.get(f"{kind}_output_patch", [])]
        replacements = own_replacements(options, kind)
        for block in layers:
            replacements[block] = adapted.attention(replacement_of(block, replacements))


class _AdaptedLayers:
    """The self- or the cross-attention layers of one call. A layer's states are kept while it runs."""

    def __init__(self, call: InjectedCall, layers: dict[_Block, str]) -> None:
        self._call = call
        self._layers = layers
        self._inputs: tuple[Tensor, Tensor, Tensor] | None = None
        self._mixed: tuple[Tensor, Tensor] | None = None

    def keep_inputs(
        self, n: Tensor, context: Tensor, value: Tensor, extra_options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        if _block_of(extra_options) in self._layers:
            self._inputs = n, context, value
        return n, context, value

    def attention(self, previous: Replacement | None) -> Replacement:
        """A replacement that adapts queries, keys and values and keeps what the output projection gets."""

        def replace(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
            layer = self._layers[_block_of(extra_options)]
            assert self._inputs is not None
            queried, context, value = self._inputs
            self._inputs = None
            self._call.adapt(layer, "q", queried, q)
            self._call.adapt(layer, "k", context, k)
            self._call.adapt(layer, "v", value, v)
            mixed = _attention(previous, q, k, v, extra_options)
            self._mixed = queried, mixed
            return mixed

        return replace

    def add_to_output(self, output: Tensor, extra_options: dict[str, Any]) -> Tensor:
        layer = self._layers.get(_block_of(extra_options))
        if layer is not None and self._mixed is not None:
            queried, mixed = self._mixed
            self._mixed = None
            self._call.adapt(layer, "out", mixed, output)
            self._call.adapt(layer, "bypass", queried, output)
        return output


def _block_of(extra_options: dict[str, Any]) -> _Block:
    """The transformer layer that a patch is called in."""
    kind, number = extra_options["block"]
    return kind, number, extra_options["block_index"]


def _attention(
    previous: Replacement | None, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]
) -> Tensor:
    if previous is not None:
        return previous(q, k, v, extra_options)
    return optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        attn_precision=extra_options["attn_precision"],
        transformer_options=extra_options,
    )
