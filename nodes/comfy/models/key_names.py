"""Converts diffusers' names of tensors to ComfyUI's."""

import re

import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

States = dict[str, Tensor]
TAESD_WIDTH = 64


def unet_keys(states: States) -> States:
    """Renames the tensors of a diffusers UNet. Empties ``states``, so that nothing is held twice."""
    names = comfy.utils.unet_to_diffusers(_structure(states))
    return {names[key]: states.pop(key) for key in list(states) if key in names}


def text_keys(states: States) -> States:
    """Puts CLIP's tensors below ``text_model.`` and drops its ``position_ids``. T5's stay."""
    if any(key.startswith("encoder.block.") for key in states):
        return states
    named = {
        key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}": value
        for key, value in states.items()
    }
    return {key: value for key, value in named.items() if not key.endswith(".position_ids")}


def tiny_vae_keys(states: States) -> States:
    """Converts a diffusers ``AutoencoderTiny`` to ComfyUI's TAESD.

    TAESD is 64 channels wide. A narrower one is padded with zero weights: the added channels stay zero
    through ReLUs and skip connections, so the result is the same. ComfyUI's decoder has its clamp as layer 0,
    hence the shift by one.
    """
    converted: States = {}
    for key, value in states.items():
        part, _, rest = key.partition(".layers.")
        layer, _, inner = rest.partition(".")
        shift = 1 if part == "decoder" else 0
        converted[f"taesd_{part}.{int(layer) + shift}.{inner}"] = value
    layers: dict[str, list[int]] = {}
    for key in converted:
        part, layer, *_ = key.split(".")
        layers.setdefault(part, []).append(int(layer))
    widened: States = {}
    for key, value in converted.items():
        part, layer, *_ = key.split(".")
        is_first = int(layer) == (1 if part == "taesd_decoder" else 0)
        is_last = int(layer) == max(layers[part])
        widened[key] = _widened(value, inputs=not is_first, outputs=not is_last)
    return {**widened, "vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}


def _widened(value: Tensor, inputs: bool, outputs: bool) -> Tensor:
    """Pads hidden channels with zeros to TAESD's width, but not image and latent channels."""
    rows = TAESD_WIDTH - value.shape[0] if outputs else 0
    if value.ndim == 1:
        return F.pad(value, (0, rows))
    columns = TAESD_WIDTH - value.shape[1] if inputs else 0
    return F.pad(value, (0, 0, 0, 0, 0, columns, 0, rows))


def _structure(states: States) -> dict[str, list[int] | int]:
    """Counts residual and transformer layers, in the form that ComfyUI's ``unet_to_diffusers`` takes."""
    residual: dict[tuple[str, int], int] = {}  # (way, level) -> residual layers
    depth: dict[tuple[str, int, int], int] = {}  # (way, level, layer) -> transformer layers
    middle = 0
    for key in states:
        if found := re.match(r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", key):
            level = (found[1], int(found[2]))
            residual[level] = max(residual.get(level, 0), int(found[3]) + 1)
        elif found := re.match(
            r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.", key
        ):
            layer = (found[1], int(found[2]), int(found[3]))
            depth[layer] = max(depth.get(layer, 0), int(found[4]) + 1)
        elif found := re.match(r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.", key):
            middle = max(middle, int(found[1]) + 1)
    levels = sorted(level for way, level in residual if way == "down")
    down = [
        depth.get(("down", level, layer), 0) for level in levels for layer in range(residual["down", level])
    ]
    up = [depth.get(("up", level, layer), 0) for level in levels for layer in range(residual["up", level])]
    return {
        "num_res_blocks": [residual["down", level] for level in levels],
        "channel_mult": levels,
        "transformer_depth": down,
        # unet_to_diffusers takes the last entry first.
        "transformer_depth_output": up[::-1],
        "transformer_depth_middle": middle,
    }
