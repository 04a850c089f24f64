"""Adds input channels to a UNet, to make an editor of a text-to-image model, or an editor that reads a mask.

New channels start at zero, so the widened model computes the same as the narrow one, whatever the new
channels hold (InstructPix2Pix, section 3.2). UltraEdit's paper starts them at random (appendix A.4), its
published code at zero; ``randomize_new_channels`` does what the paper says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ModelError
from .attention_sites import Shapes
from .builtin import part_files
from .weights import folder_weights

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

_INPUT = "conv_in.weight"
# Known numbers of input channels, and the models that have them.
_KNOWN_CHANNELS = {
    4: "plain Stable Diffusion (4 channels)",
    8: "an InstructPix2Pix model (8)",
    12: "a model that reads masks (12)",
}


def input_channels(folder: Path) -> int:
    """Returns the number of input channels of the UNet that a diffusers folder stores. Reads headers only.

    Raises:
        ModelError: the folder holds no UNet.
    """
    stems = ("diffusion_pytorch_model",)
    shapes = folder_weights(folder / "unet", stems, part_files(folder, "unet", stems)).shapes
    if len(shapes.get(_INPUT, ())) != 4:
        raise ModelError(f"{folder.name}: its folder 'unet' holds no UNet. Choose a Stable Diffusion model.")
    return shapes[_INPUT][1]


def widened_shapes(shapes: Shapes, channels: int, title: str) -> Shapes:
    """Returns the shapes of a diffusers UNet with ``channels`` input channels. Other models are left alone.

    Raises:
        ModelError: the UNet has more channels, or not 4, 8 or 12.
    """
    if len(shapes.get(_INPUT, ())) != 4:
        return shapes
    rows, present, *kernel = shapes[_INPUT]
    if present > channels or present not in _KNOWN_CHANNELS:
        starts = [name for known, name in _KNOWN_CHANNELS.items() if known <= channels]
        raise ModelError(
            f"{title}: its UNet has {present} input channels and cannot be widened to {channels}. Start from "
            f"{', '.join(starts[:-1])} or {starts[-1]}."
        )
    return {**shapes, _INPUT: (rows, channels, *kernel)}


def widened_tensors(tensors: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Returns a diffusers UNet's weights with zeros for the new channels."""
    first = tensors[_INPUT]
    added = first.new_zeros(first.shape[0], channels - first.shape[1], *first.shape[2:])
    return {**tensors, _INPUT: torch.cat([first, added], dim=1)}


@torch.no_grad()
def randomize_new_channels(unet: UNet2DConditionModel, present: int, seed: int) -> None:
    """Draws the weights of all input channels from ``present`` on, as PyTorch initializes a convolution.

    Args:
        unet: a widened UNet. Its weights change in place.
        present: input channels that are not new.
        seed: the same seed gives the same weights on every device.
    """
    weight = unet.conv_in.weight
    new = weight[:, present:]
    bound = weight[0].numel() ** -0.5
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(new.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
    new.copy_(drawn)
