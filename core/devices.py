"""Devices: their free memory, the lack of it, and copies that do not wait."""

import torch
from torch import Tensor


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated on a GPU, those that torch keeps for itself included; None elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and "out of memory" in str(error).lower())


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor from the CPU to the device, without waiting for what the device does."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
