"""More input channels for a UNet: what a text-to-image model needs to become an editor, and an editor to read a mask.

The new channels' weights are zero, so the widened model does what the narrow one did, whatever it is given in them (InstructPix2Pix, section 3.2).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import ModelError
from .attention_sites import Shapes

_INPUT = "conv_in.weight"
_NARROW = (4, 8, 12)
"""Noise; noise and image; noise, image and mask."""


def widened_shapes(shapes: Shapes, channels: int, title: str) -> Shapes:
    """Shapes of a diffusers UNet with so many input channels; those of another kind of model as they are.

    Raises:
        ModelError: the UNet has more channels already, or a number that is none of 4, 8 and 12.
    """
    if len(shapes.get(_INPUT, ())) != 4:
        return shapes
    rows, present, *kernel = shapes[_INPUT]
    if present > channels or present not in _NARROW:
        raise ModelError(
            f"{title}: its UNet has {present} input channels and cannot be widened to {channels}. Begin with an InstructPix2Pix model (8 channels), with plain "
            "Stable Diffusion (4) or with what an earlier run made."
        )
    return {**shapes, _INPUT: (rows, channels, *kernel)}


def widened_tensors(tensors: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """A diffusers UNet's weights with zeros for the channels that are new."""
    first = tensors[_INPUT]
    return {
        **tensors,
        _INPUT: torch.cat(
            [first, first.new_zeros(first.shape[0], channels - first.shape[1], *first.shape[2:])], dim=1
        ),
    }
