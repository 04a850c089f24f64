"""Random Stable Diffusion 3 transformers with the key names of diffusers or of the original code.

The names of the original code are listed here, so that tests do not depend on the code under test.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from instructbrush.tests.support import seeded

SD3 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 48,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
# Two layers and two heads: ComfyUI derives the number of heads from the width, and uses it as the number of
# layers.
SMALL_SD3 = {
    **SD3,
    "num_layers": 2,
    "num_attention_heads": 2,
    "caption_projection_dim": 128,
    "pos_embed_max_size": 16,
}

_OUTSIDE = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_INSIDE = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_STACKED = {"x_block": ("to_q", "to_k", "to_v"), "context_block": ("add_q_proj", "add_k_proj", "add_v_proj")}


def shapes(config: Mapping[str, Any]) -> seeded.Shapes:
    """Returns the shapes of a transformer under diffusers' names, without allocating it."""
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        return seeded.shapes_of(SD3Transformer2DModel.from_config(dict(config)))


def tensors(config: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """Returns a random transformer under diffusers' names."""
    return dict(seeded.weights(shapes(config), seed))


def on_meta(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns a transformer on the meta device, which takes no memory."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes(config).items()}


def native(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts a transformer to the names of the original code.

    Stacks queries, keys and values, and swaps shift and scale in the last modulations.
    """
    last = max(int(name.split(".")[1]) for name in named if name.startswith("transformer_blocks."))
    swapped = {"norm_out.linear", f"transformer_blocks.{last}.norm1_context.linear"}
    renamed: dict[str, Tensor] = {"pos_embed": named["pos_embed.pos_embed"]}
    for name, tensor in named.items():
        stem, _, leaf = name.rpartition(".")
        if stem in swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if stem in _OUTSIDE:
            renamed[f"{_OUTSIDE[stem]}.{leaf}"] = tensor
        elif stem.startswith("transformer_blocks."):
            _, number, rest = stem.split(".", 2)
            if rest in _INSIDE:
                renamed[f"joint_blocks.{number}.{_INSIDE[rest]}.{leaf}"] = tensor
    for number in range(last + 1):
        for block, parts in _STACKED.items():
            for leaf in ("weight", "bias"):
                stack = [named[f"transformer_blocks.{number}.attn.{part}.{leaf}"] for part in parts]
                renamed[f"joint_blocks.{number}.{block}.attn.qkv.{leaf}"] = torch.cat(stack)
    return renamed


def shapes_of(named: Mapping[str, Tensor]) -> seeded.Shapes:
    return {name: tuple(tensor.shape) for name, tensor in named.items()}
