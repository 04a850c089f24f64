"""Gives a MODEL plain weights for the time of a learning run.

ComfyUI keeps weights in a form for sampling: partly on the CPU, in the file's dtype and cast in every call
(dynamic VRAM, fp8, quantized), with a LoRA merged or still to be added, and made in inference mode. Gradients
need all weights on the device, in the dtype that the model computes in, with the LoRA merged, as tensors that
autograd accepts. So a run replaces the model's own weights by plain ones and restores them at the end.
Meanwhile the model's own wait where ComfyUI keeps unused models. Weights that are on the device in the right
dtype share their memory.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher, get_key_weight
from torch import Tensor


def comfyui_mode() -> AbstractContextManager[object]:
    """The mode in which ComfyUI loads and unloads models, for calls within a run that needs gradients.

    A weight that was made in inference mode and is moved to another device outside of it fails in every later
    node: "Inference tensors do not track version counter".
    """
    return torch.inference_mode()


def plain(tensor: Tensor) -> Tensor:
    """Returns a tensor over the same memory that was not made in inference mode.

    It is made in any case, because ``is_inference`` is unreliable: a tensor whose ``data`` was set since, as
    moving a module does, denies it, but autograd refuses it nevertheless.
    """
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
        storage, tensor.storage_offset(), tensor.size(), tensor.stride()
    )


def dequantized(weight: Tensor) -> Tensor:
    """Returns a weight as a plain tensor: over the same memory, or dequantized."""
    return plain(weight if type(weight.data) is Tensor else weight.dequantize())


def make_plain(module: torch.nn.Module) -> None:
    """Replaces a module's parameters and buffers by plain ones over the same memory.

    Shared parameters stay shared. Quantized weights are left alone: they have classes of their own and no
    gradients.
    """
    made: dict[Tensor, torch.nn.Parameter] = {}
    for each in module.modules():
        for name, parameter in each._parameters.items():
            if parameter is None or type(parameter.data) is not Tensor:
                continue
            if parameter not in made:
                made[parameter] = torch.nn.Parameter(plain(parameter), requires_grad=False)
            each._parameters[name] = made[parameter]
        for name, buffer in each._buffers.items():
            if buffer is not None:
                each._buffers[name] = plain(buffer)


def static_clone(model: ModelPatcher) -> ModelPatcher:
    """Clones a patcher without ComfyUI's dynamic VRAM, over the same network.

    The clone is never loaded; its weights come from ``plain_weights``.
    """
    if model.is_dynamic():
        return model.clone(disable_dynamic=True, model_override=model.get_clone_model_override())
    return model.clone()


@contextmanager
def plain_weights(patcher: ModelPatcher, needed: Callable[[str], bool] | None = None) -> Iterator[None]:
    """Gives a patcher's network plain weights on ``patcher.load_device`` while the context is open.

    The patcher's patches are applied. If all weights are needed, other models leave the device.

    Args:
        patcher: from ``static_clone``.
        needed: whether a module is used, by its path in the network; None for all. Weights of unused
            modules stay where they are.
    """
    device = patcher.load_device
    with comfyui_mode():
        _unload(patcher, others=needed is None and device.type != "cpu")
        management.load_models_gpu(patcher.model_patches_models())
    patcher.patch_model(load_weights=False)
    with ExitStack() as undo:
        undo.callback(_empty_cache, device)
        undo.callback(patcher.unpatch_model, unpatch_weights=False)
        # Not in comfyui_mode: gradients must pass the tensors of patches.
        patcher.model_patches_to(device)
        patcher.model_patches_to(patcher.model_dtype())
        for path, module in patcher.model.named_modules():
            if needed is None or needed(path):
                _replace_weights(patcher, path, module, undo)
        yield


def _unload(patcher: ModelPatcher, others: bool) -> None:
    """Unloads the network, which undoes a merged LoRA, and with ``others`` all other models."""
    kept = [
        each
        for each in management.current_loaded_models
        if each.model is not None and each.model.model is not patcher.model
    ]
    management.free_memory(1e30, patcher.load_device, keep_loaded=[] if others else kept)


def _empty_cache(device: torch.device) -> None:
    if device.type != "cpu":
        management.soft_empty_cache()


def _replace_weights(patcher: ModelPatcher, path: str, module: torch.nn.Module, undo: ExitStack) -> None:
    casts = hasattr(module, "comfy_cast_weights")
    for name, own in list(module._parameters.items()):
        if own is not None:
            kept = getattr(module, f"{name}_comfy_model_dtype", None)
            computed = patcher.model.get_dtype_inference() if casts else kept
            module._parameters[name] = torch.nn.Parameter(
                _weight(patcher, f"{path}.{name}" if path else name, kept, computed), requires_grad=False
            )
            undo.callback(module._parameters.__setitem__, name, own)
    for name, own in list(module._buffers.items()):
        if own is not None:
            module._buffers[name] = plain(own).to(patcher.load_device)
            undo.callback(module._buffers.__setitem__, name, own)
    if casts:
        # Layers need not cast any more. Quantized ones must take the weight as it is.
        for name, value in (
            ("comfy_cast_weights", False),
            ("comfy_force_cast_weights", True),
            ("weight_function", []),
            ("bias_function", []),
        ):
            override_attribute(module, name, value, undo)


@torch.no_grad()
def _weight(
    patcher: ModelPatcher, key: str, kept: torch.dtype | None, computed: torch.dtype | None
) -> Tensor:
    device = patcher.load_device
    own: Any = get_key_weight(patcher.model, key)[0]
    # The file lacks the weight. ComfyUI's dynamic VRAM makes zeros at first use.
    if own.is_meta:
        own = torch.zeros(own.shape, dtype=own.dtype)
    weight: Any = (
        patcher.patch_weight_to_device(key, device_to=device, return_weight=True)
        if key in patcher.patches
        else own
    )
    weight = dequantized(weight)
    if weight.is_floating_point():
        # Dynamic VRAM holds the file's weight and casts it to fp8 in every call.
        if kept is not None and kept.itemsize == 1:
            weight = weight.to(kept)
        weight = weight.to(device, computed)
    weight = weight.to(device)
    for function in patcher.weight_wrapper_patches.get(key, []):
        weight = function(weight)
    # The weight was copied anyway, so use the memory order of tensor cores.
    if weight.ndim == 4 and device.type == "cuda" and own.device != device:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight


def override_attribute(module: torch.nn.Module, name: str, value: Any, undo: ExitStack) -> None:
    """Sets an attribute of a module. Restores it, e.g. another pack's value, when ``undo`` closes."""
    if name in vars(module):
        undo.callback(setattr, module, name, vars(module)[name])
    else:
        undo.callback(delattr, module, name)
    setattr(module, name, value)
