"""diffusers' names of tensors -> ComfyUI's."""

import re

import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

States = dict[str, Tensor]
TAESD_WIDTH = 64


def unet_keys(states: States) -> States:
    """A diffusers UNet's tensors under ComfyUI's names. Empties ``states``, so that nothing is held twice."""
    names = comfy.utils.unet_to_diffusers(_structure(states))
    return {names[key]: states.pop(key) for key in list(states) if key in names}


def text_keys(states: States) -> States:
    """A text tower's tensors as ComfyUI names them: CLIP's all below ``text_model.``, without the index of positions; T5's as they are."""
    if any(key.startswith("encoder.block.") for key in states):
        return states
    named = {
        key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}": value
        for key, value in states.items()
    }
    return {key: value for key, value in named.items() if not key.endswith(".position_ids")}


def tiny_vae_keys(states: States) -> States:
    """A diffusers ``AutoencoderTiny`` as ComfyUI's TAESD.

    TAESD is 64 channels wide. A narrower one is filled up with zero weights: the added channels stay zero through ReLUs and skips, so the
    result is the same. ComfyUI's decoder has its clamp as layer 0, hence the shift by one.
    """
    converted: States = {}
    for key, value in states.items():
        part, _, rest = key.partition(".layers.")
        layer, _, inner = rest.partition(".")
        shift = 1 if part == "decoder" else 0
        converted[f"taesd_{part}.{int(layer) + shift}.{inner}"] = value
    last = {
        part: max(int(key.split(".")[1]) for key in converted if key.startswith(part))
        for part in ("taesd_encoder", "taesd_decoder")
    }
    first = {"taesd_encoder": 0, "taesd_decoder": 1}
    widened = {
        key: _widened(
            value,
            inputs=int(key.split(".")[1]) != first[key.split(".")[0]],
            outputs=int(key.split(".")[1]) != last[key.split(".")[0]],
        )
        for key, value in converted.items()
    }
    return {**widened, "vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}


def _widened(value: Tensor, inputs: bool, outputs: bool) -> Tensor:
    """Zeros up to TAESD's width on the sides that touch hidden channels; the outermost layers keep their 3 or 4."""
    rows = TAESD_WIDTH - value.shape[0] if outputs else 0
    if value.ndim == 1:
        return F.pad(value, (0, rows))
    columns = TAESD_WIDTH - value.shape[1] if inputs else 0
    return F.pad(value, (0, 0, 0, 0, 0, columns, 0, rows))


def _structure(states: States) -> dict[str, list[int] | int]:
    """How many residual and transformer layers there are at each place, in the form that ComfyUI's name table asks for."""
    residual: dict[tuple[str, int], int] = {}
    depth: dict[tuple[str, int, int], int] = {}
    middle = 0
    for key in states:
        if found := re.match(r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", key):
            place = (found[1], int(found[2]))
            residual[place] = max(residual.get(place, 0), int(found[3]) + 1)
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
        # The table takes the last entry first.
        "transformer_depth_output": up[::-1],
        "transformer_depth_middle": middle,
    }
