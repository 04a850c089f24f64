"""Adds input channels to a UNet, to make an editor of a text-to-image model, or an editor that reads a mask.

The weights of new channels are zero, so the widened model computes the same as the narrow one, whatever the
new channels hold (InstructPix2Pix, section 3.2).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import ModelError
from .attention_sites import Shapes

_INPUT = "conv_in.weight"
# Noise; noise and image; noise, image and mask.
_KNOWN_CHANNELS = (4, 8, 12)


def widened_shapes(shapes: Shapes, channels: int, title: str) -> Shapes:
    """Returns the shapes of a diffusers UNet with ``channels`` input channels. Other models are left alone.

    Raises:
        ModelError: the UNet has more channels, or not 4, 8 or 12.
    """
    if len(shapes.get(_INPUT, ())) != 4:
        return shapes
    rows, present, *kernel = shapes[_INPUT]
    if present > channels or present not in _KNOWN_CHANNELS:
        raise ModelError(
            f"{title}: its UNet has {present} input channels and cannot be widened to {channels}. Start from "
            "an InstructPix2Pix model (8 channels), from plain Stable Diffusion (4) or from the result of "
            "an earlier run."
        )
    return {**shapes, _INPUT: (rows, channels, *kernel)}


def widened_tensors(tensors: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Returns a diffusers UNet's weights with zeros for the new channels."""
    first = tensors[_INPUT]
    added = first.new_zeros(first.shape[0], channels - first.shape[1], *first.shape[2:])
    return {**tensors, _INPUT: torch.cat([first, added], dim=1)}
