"""Models of other kinds than ComfyUI's own, held as it holds its own: others make room for them when they are used, and they make room for others later."""

from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ..models.plain_weights import make_plain

_patchers: "WeakKeyDictionary[Any, ModelPatcher]" = WeakKeyDictionary()
"""A patcher knows the networks and not the model around them, so that both go when the model does."""


def bring(model: Any, module: torch.nn.Module, stays: bool = False) -> None:
    """Bring a model's networks to the device, ready for gradients.

    Args:
        model: what the networks belong to.
        module: the networks.
        stays: they cannot leave the device.
    """
    with torch.inference_mode(False):
        patcher = _patchers.get(model)
        if patcher is None:
            device = comfy.model_management.get_torch_device()
            offload = device if stays else comfy.model_management.text_encoder_offload_device()
            patcher = _patchers[model] = ModelPatcher(module, device, offload)
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)
        make_plain(module)  # a node in inference mode may have moved it since
