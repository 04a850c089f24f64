"""Compute devices: lookup by name, free memory, asynchronous copies."""

import torch
from torch import Tensor

from .errors import DeviceError

# What the CPU, CUDA, its libraries, Apple's Metal and Intel's runtime say, in lower case.
_MEMORY_RAN_OUT = (
    "defaultcpuallocator",
    "out of memory",
    "status_alloc_failed",
    "invalid buffer size",
    "error_out_of_device_memory",
    "error_out_of_resources",
)


def free_memory(device: torch.device) -> int | None:
    """Returns the bytes that can be allocated on a GPU, with torch's cache; None if they are not known."""
    if device.type == "mps":
        return max(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory(), 0)
    backend = {"cuda": torch.cuda, "xpu": torch.xpu}.get(device.type)
    if backend is None or not hasattr(backend, "mem_get_info"):
        return None
    free, _ = backend.mem_get_info(device)
    return free + backend.memory_reserved(device) - backend.memory_allocated(device)


def empty_cache(device: torch.device) -> None:
    """Returns torch's unused memory to the device."""
    backend = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.mps}.get(device.type)
    if backend is not None:
        backend.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that a device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MEMORY_RAN_OUT)
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a small CPU tensor to the device without waiting for work queued there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def named_device(name: str) -> torch.device:
    """Parses a device name in any case. ``auto`` is the first GPU, or the CPU; ``gpu`` means ``cuda``.

    Raises:
        DeviceError: torch does not know the device, or this machine does not have it.
    """
    present = _gpu_names()
    requested = name.strip().lower()
    if requested == "auto":
        return torch.device(present[0].removesuffix(":0") if present else "cpu")
    if requested.startswith("gpu"):
        requested = f"cuda{requested.removeprefix('gpu')}"
    available = ", ".join(["cpu", *present])
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise DeviceError(
            f"Device '{name[:40]}' is not known to torch. This machine has {available}; 'auto' chooses one."
        ) from error
    # Compare names, because torch reads "cuda:256" as "cuda:0".
    if str(device) == requested and not {requested, f"{requested}:0"}.isdisjoint(["cpu:0", *present]):
        return torch.device("cpu") if device.type == "cpu" else device
    raise DeviceError(
        f"Device '{name[:40]}' was not found, or this torch was not built for it. This machine has "
        f"{available}; 'auto' chooses one."
    )


def _gpu_names() -> list[str]:
    names: list[str] = []
    for kind in ("cuda", "xpu"):
        backend = getattr(torch, kind, None)
        if backend is not None and backend.is_available():
            names += [f"{kind}:{number}" for number in range(backend.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps:0")
    return names
