"""A MODEL's weights as plain tensors on its device, for the time of a run.

ComfyUI keeps weights as suits sampling: on the CPU or partly there, in the file's dtype and cast in every call (dynamic VRAM, fp8, quantised), with a LoRA
merged or still to be added, made in inference mode. Gradients need them in one way: all on the device, in the dtype that the model computes in, with the LoRA
in them, as tensors that autograd takes. So a run lays plain weights over the model's own and takes them away in the end. The model's own wait where
ComfyUI keeps models that are not in use; where they lie on the device already, and in the right dtype, the memory is shared.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher, get_key_weight
from torch import Tensor


def plain(tensor: Tensor) -> Tensor:
    """An ordinary tensor over the memory of another.

    Whether a tensor was made in inference mode cannot be asked: one that was, and whose ``data`` was set since (as moving a module does), says that it was not,
    and autograd refuses it nevertheless.
    """
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
        storage, tensor.storage_offset(), tensor.size(), tensor.stride()
    )


def dequantized(weight: Tensor) -> Tensor:
    """A weight as an ordinary tensor: over its memory, or of numbers where it is kept quantised."""
    return plain(weight if type(weight.data) is Tensor else weight.dequantize())


def make_plain(module: torch.nn.Module) -> None:
    """Give a module ordinary parameters and buffers over the same memory; what modules share they go on sharing."""
    made: dict[Tensor, torch.nn.Parameter] = {}
    for each in module.modules():
        for name, parameter in each._parameters.items():
            if (
                parameter is not None and type(parameter.data) is Tensor
            ):  # quantised weights have classes of their own, and no gradients
                if parameter not in made:
                    made[parameter] = torch.nn.Parameter(plain(parameter), requires_grad=False)
                each._parameters[name] = made[parameter]
        for name, buffer in each._buffers.items():
            if buffer is not None:
                each._buffers[name] = plain(buffer)


def static_clone(model: ModelPatcher) -> ModelPatcher:
    """A patcher over the same network that ComfyUI's dynamic VRAM takes no part in. It is never loaded: its weights come from :func:`plain_weights`."""
    if model.is_dynamic():
        return model.clone(disable_dynamic=True, model_override=model.get_clone_model_override())
    return model.clone()


@contextmanager
def plain_weights(
    patcher: ModelPatcher, needed: Callable[[str], bool] = lambda module: True
) -> Iterator[None]:
    """Within it the network of a patcher has plain weights on ``patcher.load_device``, its patches are in place, and no other model is on the device.

    Args:
        patcher: of :func:`static_clone`.
        needed: whether a module is used at all, by its path in the network; the weights of others stay where they are.
    """
    device = patcher.load_device
    _clear(patcher)
    management.load_models_gpu(patcher.model_patches_models())
    patcher.patch_model(load_weights=False)
    with ExitStack() as undo:
        undo.callback(_give_back, device)
        undo.callback(patcher.unpatch_model, unpatch_weights=False)
        patcher.model_patches_to(device)
        patcher.model_patches_to(patcher.model_dtype())
        for path, module in patcher.model.named_modules():
            if needed(path):
                _lay_over(patcher, path, module, undo)
        yield


def _clear(patcher: ModelPatcher) -> None:
    """Unload the network, so that its weights are its own again, without a merged LoRA; and from a GPU all other models: they leave their room to the run."""
    device = patcher.load_device
    others = [
        each
        for each in management.current_loaded_models
        if each.model is not None and each.model.model is not patcher.model
    ]
    management.free_memory(1e30, device, keep_loaded=others if device.type == "cpu" else [])


def _give_back(device: torch.device) -> None:
    if device.type != "cpu":
        management.soft_empty_cache()


def _lay_over(patcher: ModelPatcher, path: str, module: torch.nn.Module, undo: ExitStack) -> None:
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
        # The layers need not cast any more; quantised ones shall take the weight as it is.
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
    if own.is_meta:  # the file had none, and ComfyUI's dynamic VRAM makes zeros of it when it is first used
        own = torch.zeros(own.shape, dtype=own.dtype)
    weight: Any = (
        patcher.patch_weight_to_device(key, device_to=device, return_weight=True)
        if key in patcher.patches
        else own
    )
    weight = dequantized(weight)
    if weight.is_floating_point():
        if (
            kept is not None and kept.itemsize == 1
        ):  # dynamic VRAM has the file's weight there, and makes fp8 of it in every call
            weight = weight.to(kept)
        weight = weight.to(device, computed)
    weight = weight.to(device)
    for function in patcher.weight_wrapper_patches.get(key, []):
        weight = function(weight)
    if (
        weight.ndim == 4 and device.type == "cuda" and own.device != device
    ):  # a copy anyway: in the order that the tensor cores read
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight


def override_attribute(module: torch.nn.Module, name: str, value: Any, undo: ExitStack) -> None:
    """Set an attribute of a module until ``undo`` closes; what another pack had set is back then."""
    if name in vars(module):
        undo.callback(setattr, module, name, vars(module)[name])
    else:
        undo.callback(delattr, module, name)
    setattr(module, name, value)
