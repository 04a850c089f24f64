"""Changes checkpoints for tests."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def change(path: Path, changes: Mapping[str, Tensor | None], metadata: dict[str, str] | None = None) -> None:
    """Replaces tensors of a checkpoint; None removes one."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() if metadata is None else metadata
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, metadata)
