"""Loads encoders onto the device through ComfyUI, so that they and its models make room for each other."""

from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ....core.encoders.clip import OpenClipModel
from ....core.encoders.mllm import Mllm
from ....core.reasoning.connector import Connector
from ....core.regions.finder import RegionFinder
from ..models.plain_weights import comfyui_mode, make_plain

Encoder = OpenClipModel | Mllm | Connector | RegionFinder

# A patcher refers to the networks and not to the encoder, so that both are freed with the encoder.
patchers: "WeakKeyDictionary[Encoder, ModelPatcher]" = WeakKeyDictionary()


def prepare(encoder: Encoder) -> None:
    """Loads an encoder's networks onto the device, usable with gradients.

    Quantized vision-language models cannot leave the device. Before the first use of one, all other models
    are unloaded to make room.
    """
    stays = isinstance(encoder, Mllm) and bool(encoder.bits)
    with comfyui_mode():
        if isinstance(encoder, Mllm) and stays and not encoder.loaded:
            comfy.model_management.unload_all_models()
        module = _networks(encoder)
        patcher = patchers.get(encoder)
        if patcher is None:
            device = comfy.model_management.get_torch_device()
            offload = device if stays else comfy.model_management.text_encoder_offload_device()
            patcher = patchers[encoder] = ModelPatcher(module, device, offload)
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    with torch.inference_mode(False):
        # Weights that are moved in inference mode cannot be used for gradients.
        make_plain(module)


def _networks(encoder: Encoder) -> torch.nn.Module:
    if isinstance(encoder, Connector):
        return torch.nn.ModuleDict(dict(encoder.named_children()))
    return encoder.module
