"""Detects UltraEdit's Stable Diffusion 3, a transformer with more input channels, by its shapes.

Its layers attend to text and image jointly, so there is no cross-attention for an instruction to act in.
"""

import hashlib
import re
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ModelError
from .attention_sites import Shapes

_NATIVE = "joint_blocks.{}.x_block.attn.qkv.weight"
_DIFFUSERS = "transformer_blocks.{}.attn.to_q.weight"


def is_transformer(shapes: Shapes) -> bool:
    """Whether these are the tensors of a Stable Diffusion 3 transformer, in either dialect."""
    native = "joint_blocks.0.context_block.attn.qkv.weight" in shapes and "x_embedder.proj.weight" in shapes
    return native or (
        "transformer_blocks.0.attn.add_q_proj.weight" in shapes and "pos_embed.proj.weight" in shapes
    )


def in_channels(shapes: Shapes) -> int:
    """Returns the number of input channels.

    Raises:
        ModelError: the first weight is not that of a convolution.
    """
    name = next(name for name in ("x_embedder.proj.weight", "pos_embed.proj.weight") if name in shapes)
    if len(shapes[name]) != 4:
        raise ModelError(
            f"Transformer: {name} has shape {list(shapes[name])}; four sides are needed. The file is damaged "
            "or of another kind. Download it again."
        )
    return shapes[name][1]


def fingerprint_of(shapes: Shapes, read: Callable[[str, int], Tensor]) -> str:
    """Hashes a transformer: sha256, hex, over the first 4 rows of the image's queries in every layer.

    The rows are rounded to fp16 and then to bf16, so the same holds as for ``fingerprint_of`` in
    core/models/families.py.

    Args:
        shapes: the transformer's tensors.
        read: reads the first rows of a tensor by its key in the model's own dialect.

    Raises:
        ModelError: the queries of a layer are not a matrix.
    """
    template = _NATIVE if _NATIVE.format(0) in shapes else _DIFFUSERS
    layer = re.compile(re.escape(template).replace(r"\{\}", r"(\d{1,3})"))
    digest = hashlib.sha256()
    for number in sorted(int(found[1]) for found in map(layer.fullmatch, shapes) if found):
        key = template.format(number)
        if len(shapes[key]) != 2:
            raise ModelError(
                f"Transformer: {key} has shape {list(shapes[key])}; a matrix is needed. The file is damaged "
                "or of another kind. Download it again."
            )
        digest.update(f"{number} {shapes[key][1]}\n".encode())
        rounded = read(key, 4).detach().to("cpu", torch.float16).to(torch.bfloat16).contiguous()
        digest.update(rounded.view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()
