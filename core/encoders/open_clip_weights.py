"""Fills open_clip's ``CLIP`` with weights, also with those in the layout of transformers' ``CLIPModel``."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.weights import fill

if TYPE_CHECKING:
    from open_clip.model import CLIP

# Patterns of names in transformers -> names in open_clip.
_RENAMED = (
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
)


def fill_clip(module: "CLIP", weights: Mapping[str, Tensor], part: str, device: torch.device) -> None:
    """Fills a model that was built on the ``meta`` device, in fp32.

    Args:
        module: the model.
        weights: weights by open_clip's names.
        part: name of the weights in messages.
        device: where the weights are put.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    fill(module, weights, part, device, torch.float32)
    length = module.context_length
    module.attn_mask = torch.full((length, length), float("-inf"), device=device).triu_(1)


def open_clip_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the weights of transformers' ``CLIPModel``, transposes projections, and merges q, k and v.

    Raises:
        RuntimeError: q, k and v cannot be merged.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor.T if name in ("text_projection", "visual.proj") else tensor
    for name in [name for name in renamed if ".attn.q_proj." in name]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{part}_proj."), None) for part in "qkv"]
        present = [part for part in parts if part is not None]
        # If one is missing, fill_clip reports the merged weight as missing.
        if len(present) == len(parts):
            renamed[name.replace(".q_proj.", ".in_proj_")] = torch.cat(present)
    return renamed
