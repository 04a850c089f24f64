"""Safetensors files, checked before anything is read from them."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError

MAX_HEADER_BYTES = 100_000_000
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")

_DTYPE_BYTES = {
    name: size
    for size, names in {
        1: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"),
        2: ("U16", "I16", "F16", "BF16"),
        4: ("U32", "I32", "F32"),
        8: ("U64", "I64", "F64"),
    }.items()
    for name in names
}
_HOW_TO_CONVERT = (
    "Pickled checkpoints can run code when they are opened. Convert it once where you trust it: load it in ComfyUI and save it with "
    "Save Checkpoint, or take the .safetensors version of the model."
)


@dataclass(frozen=True)
class WeightsFile:
    """The header of one safetensors file."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]


class Weights:
    """The tensors of one model part, in one file or several, read one at a time.

    Args:
        files: headers from :func:`read_header`; where a tensor is in several, the last one counts.
        prefix: only tensors whose name starts so are seen, without it.
    """

    def __init__(self, files: list[WeightsFile], prefix: str = "") -> None:
        self._files = files
        self._prefix = prefix
        self._place = {name.removeprefix(prefix): file for file in files for name in file.shapes if name.startswith(prefix)}
        self.shapes: dict[str, tuple[int, ...]] = {name: file.shapes[prefix + name] for name, file in self._place.items()}

    def under(self, prefix: str) -> "Weights":
        """Only the tensors below a further prefix."""
        return Weights(self._files, self._prefix + prefix)

    def rows(self, name: str, count: int) -> Tensor:
        """The first rows of a tensor; nothing else is read.

        Raises:
            ModelError: there is no such tensor.
        """
        from safetensors import safe_open

        if name not in self._place:
            raise ModelError(f"{self._files[0].path.name}: the weight {self._prefix}{name} is missing. The file is incomplete or of another kind.")
        with safe_open(self._place[name].path, framework="pt") as file:
            return file.get_slice(self._prefix + name)[:count]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name, as stored, mapped from the file and not copied."""
        from safetensors import safe_open

        for file in self._files:
            names = [name for name, owner in self._place.items() if owner is file]
            with safe_open(file.path, framework="pt") as opened:
                for name in names:
                    yield name, opened.get_tensor(self._prefix + name)


def refuse_pickle(path: Path) -> None:
    """Raise for a file whose name says that it is a pickled checkpoint.

    Raises:
        ModelError: with the way to convert it.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelError(f"{path.name}: {path.suffix} files are not read, only .safetensors. {_HOW_TO_CONVERT}")


def read_header(path: Path) -> WeightsFile:
    """Read and check the header of a safetensors file, nothing else.

    Raises:
        ModelError: the file is missing, a pickle, not safetensors, cut short, or promises more than it holds.
    """
    refuse_pickle(path)
    if not path.is_file():
        raise ModelError(f"{path.name}: no such file in {path.parent}. Check the path.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start[:2] == b"PK" or start[:1] == b"\x80":
            raise ModelError(f"{path.name}: this is a pickled checkpoint under another name. {_HOW_TO_CONVERT}")
        if len(start) < 8 or (MAX_HEADER_BYTES >= length > size - 8):
            raise ModelError(f"{path.name}: the file is cut short ({size} bytes, its header alone needs {length + 8}). Download or copy it again.")
        if length > MAX_HEADER_BYTES:
            raise ModelError(f"{path.name}: not a safetensors file (its header would be {length} bytes, at most {MAX_HEADER_BYTES} are accepted).")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise ModelError(f"{path.name}: not a safetensors file (its header is not JSON).") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path.name}: not a safetensors file (its header is not a table of tensors).")
    held = size - 8 - length
    return WeightsFile(path, {name: _check_entry(path, name, entry, held) for name, entry in header.items() if name != "__metadata__"})


def _check_entry(path: Path, name: str, entry: Any, held: int) -> tuple[int, ...]:
    try:
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        itemsize = _DTYPE_BYTES[entry["dtype"]]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        sound = whole and end - begin == math.prod(shape) * itemsize
    except (KeyError, TypeError, ValueError):
        sound, shape, end = False, (), 0
    if not sound:
        raise ModelError(f"{path.name}: its header describes tensor '{name[:80]}' wrongly, so it is damaged. Download or copy it again.")
    if end > held:
        raise ModelError(
            f"{path.name}: the file is cut short: tensor '{name[:80]}' ends at byte {end} of its data, the file holds {held}. Download or copy it again."
        )
    return shape


def weight_files(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """The weights in one folder of a diffusers model: one file, its shards in order, or nothing.

    Args:
        folder: e.g. ``.../unet``.
        stems: file names without suffix, e.g. ``("diffusion_pytorch_model",)``. The full-precision variant is preferred to ``.fp16``.

    Raises:
        ModelError: a shard is missing.
    """
    for stem in stems:
        for variant in ("", ".fp16", ".bf16"):
            whole = folder / f"{stem}{variant}.safetensors"
            if whole.is_file():
                return [whole]
            shards = sorted(folder.glob(f"{stem}{variant}-?????-of-?????.safetensors")) or sorted(folder.glob(f"{stem}-?????-of-?????{variant}.safetensors"))
            if shards:
                expected = int(shards[0].name.split("-of-")[1][:5])
                if len(shards) != expected:
                    raise ModelError(f"{folder.name}: {len(shards)} of {expected} parts of {stem} are there. Download the missing ones.")
                return shards
    return []


def folder_weights(folder: Path, stems: tuple[str, ...], files: list[Path] | None = None) -> Weights:
    """The weights of :func:`weight_files`, or of ``files`` where they were looked up already.

    Raises:
        ModelError: there is no ``.safetensors`` file, or it is not sound.
    """
    files = weight_files(folder, stems) if files is None else files
    if files:
        return Weights([read_header(file) for file in files])
    pickled = next((path for path in sorted(folder.glob("*")) if path.suffix.lower() in PICKLE_SUFFIXES), None)
    if pickled is not None:
        refuse_pickle(pickled)
    raise ModelError(f"{folder.name}: there is no {stems[0]}.safetensors in {folder}. The model's folder is incomplete.")


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON table such as a model's ``config.json``.

    Raises:
        ModelError: it is missing, larger than 10 MB or not a JSON table.
    """
    if not path.is_file():
        raise ModelError(f"{path.parent.name}/{path.name}: missing in {path.parent.parent}. A diffusers folder needs it.")
    if path.stat().st_size > 10_000_000:
        raise ModelError(f"{path.parent.name}/{path.name}: {path.stat().st_size} bytes is too large for a configuration.")
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path.parent.name}/{path.name}: not a JSON file ({error}).") from error
    if not isinstance(table, dict):
        raise ModelError(f"{path.parent.name}/{path.name}: not a table of settings.")
    return table


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], part: str, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module that was built on the ``meta`` device its weights, without ever holding them twice.

    Args:
        module: all its parameters are on ``meta``.
        tensors: by the module's own names; others are ignored. Consumed one at a time.
        part: name of the part, for messages.
        device, dtype: where and in what floating dtype the weights shall be.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    state: dict[str, Tensor] = {}
    for name, wanted in module.state_dict().items():
        tensor = tensors.get(name)
        if tensor is None:
            raise ModelError(f"{part}: the weight {name} is missing. The file is incomplete or of another kind.")
        if tensor.shape != wanted.shape:
            raise ModelError(f"{part}: the weight {name} has shape {list(tensor.shape)}, {list(wanted.shape)} is needed. The file is of another kind.")
        state[name] = tensor.to(device=device, dtype=dtype if wanted.is_floating_point() else None)
    module.load_state_dict(state, assign=True)
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:  # the only ones left out of a state dict: CLIP's position_ids
            owner, _, leaf = name.rpartition(".")
            module.get_submodule(owner).register_buffer(leaf, torch.arange(buffer.numel(), device=device).view(buffer.shape), persistent=False)


def fingerprint(states: Mapping[str, Tensor]) -> str:
    """Of names, shapes and the first numbers of every weight, in fp16: the same for a file in full and in half precision."""
    digest = hashlib.sha256()
    for name, tensor in sorted(states.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        if tensor.is_floating_point() and name != "logit_scale":
            digest.update(tensor.flatten()[:64].half().cpu().numpy().tobytes())
    return digest.hexdigest()
