"""Devices: their free memory, the lack of it, and copies that do not wait."""

from typing import Any

import torch
from torch import Tensor

from .errors import DeviceError


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated on a GPU, those that torch keeps for itself included; None elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor from the CPU to the device, without waiting for what the device does."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def named_device(name: str) -> torch.device:
    """A device by its name, as a user writes it, in letters of any size; ``auto`` is a GPU where there is one.

    Raises:
        DeviceError: torch knows no such device, or this machine has none.
    """
    present = [
        f"{kind}:{number}"
        for kind in ("cuda", "xpu")
        if _backend(kind)
        for number in range(_backend(kind).device_count())
    ]
    present += ["mps:0"] if torch.backends.mps.is_available() else []
    asked = name.strip().lower()
    if asked == "auto":
        return torch.device(present[0].removesuffix(":0") if present else "cpu")
    asked = f"cuda{asked.removeprefix('gpu')}" if asked.startswith("gpu") else asked
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise DeviceError(
            f"Device '{name[:40]}' is none that torch knows. This machine has {_listed(present)}; 'auto' chooses one."
        ) from error
    # torch takes "cuda:256" for "cuda:0".
    if str(device) == asked and not {asked, f"{asked}:0"}.isdisjoint(["cpu:0", *present]):
        return torch.device("cpu") if device.type == "cpu" else device
    raise DeviceError(
        f"Device '{name[:40]}' is not there, or this torch was not built for it. This machine has {_listed(present)}; 'auto' chooses one."
    )


def _backend(kind: str) -> Any:
    backend = getattr(torch, kind, None)
    return backend if backend is not None and backend.is_available() else None


def _listed(present: list[str]) -> str:
    return ", ".join(["cpu", *present])
