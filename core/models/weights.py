"""Reads safetensors files of models. Their headers are checked before anything else is read."""

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..storage.json_text import parse_json
from ..storage.names import resolve_inside
from ..storage.safetensors_header import MOST_HEADER_BYTES, read_tensor_header
from .config_checks import check_counts, check_sources

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")

# Vocabularies of tokenizers have 10 to 35 MB.
_MOST_JSON_BYTES = 50_000_000
_HOW_TO_CONVERT = (
    "Pickled checkpoints can run code when they are opened. Convert it once where you trust it: load it in "
    "ComfyUI and save it with Save Checkpoint, or take the .safetensors version of the model."
)


@dataclass(frozen=True)
class WeightsFile:
    """The header of one safetensors file."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    """In safetensors' notation, e.g. ``"F32"``."""
    metadata: Mapping[str, str]


class Weights:
    """The tensors of one model part in one or more files, read one at a time.

    Args:
        files: headers from ``read_header``. If a tensor is in several, the last one counts.
        prefix: only tensors with this prefix are visible, by their names without it.
    """

    def __init__(self, files: list[WeightsFile], prefix: str = "") -> None:
        self._files = files
        self._prefix = prefix
        self._place = {
            name.removeprefix(prefix): file
            for file in files
            for name in file.shapes
            if name.startswith(prefix)
        }
        self.shapes: dict[str, tuple[int, ...]] = {
            name: file.shapes[prefix + name] for name, file in self._place.items()
        }
        self.dtypes: dict[str, str] = {name: file.dtypes[prefix + name] for name, file in self._place.items()}

    def under(self, prefix: str) -> "Weights":
        """Returns the tensors below a further prefix."""
        return Weights(self._files, self._prefix + prefix)

    def rows(self, name: str, count: int) -> Tensor:
        """Reads the first rows of a tensor and nothing else.

        Raises:
            ModelError: there is no such tensor, it has no rows, or its file has changed.
        """
        if name not in self._place:
            raise ModelError(
                f"{self._files[0].path.name}: the weight {self._prefix}{name} is missing. The file is "
                "incomplete or of another kind. Download it again."
            )
        if not self.shapes[name]:
            raise ModelError(
                f"{self._place[name].path.name}: the weight {self._prefix}{name} is a single number. The "
                "file is of another kind. Choose another file."
            )
        with _opened(self._place[name].path) as file:
            return file.get_slice(self._prefix + name)[:count]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields every tensor with its name, as stored. Tensors are mapped from the file, not copied.

        Raises:
            ModelError: a file has changed.
        """
        for file in self._files:
            names = [name for name, owner in self._place.items() if owner is file]
            with _opened(file.path) as opened:
                for name in names:
                    yield name, opened.get_tensor(self._prefix + name)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name}: it cannot be read ({error}). Download or copy it again.") from error


def refuse_pickle(path: Path) -> None:
    """Checks that a file's name is not that of a pickled checkpoint.

    Raises:
        ModelError: it is; says how to convert it.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelError(
            f"{path.name}: {path.suffix} files are not read, only .safetensors. {_HOW_TO_CONVERT}"
        )


def read_header(path: Path) -> WeightsFile:
    """Reads and checks the header of a safetensors file.

    Raises:
        ModelError: the file is missing, a pickle, GGUF, not safetensors, cut short or damaged.
    """
    refuse_pickle(path)
    _refuse_other_kinds(path)
    header = read_tensor_header(path, path.name, ModelError)
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    dtypes = {name: entry.dtype for name, entry in header.tensors.items()}
    return WeightsFile(path, shapes, dtypes, header.metadata)


def _refuse_other_kinds(path: Path) -> None:
    """Checks by its first bytes that a file exists and is neither GGUF nor a pickle under another name."""
    try:
        # A folder has no bytes to check; the header's reader reports it.
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            start = file.read(8)
        missing = not path.exists()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path.name}: it cannot be opened in {path.parent} ({error}). Check its name, folder and "
            "permissions."
        ) from error
    if missing:
        raise ModelError(f"{path.name}: no such file in {path.parent}. Check the path.")
    if start.startswith(b"GGUF") or path.suffix.lower() == ".gguf":
        raise ModelError(
            f"{path.name}: GGUF files are not read, only .safetensors. Take the model in fp16, bf16 or fp32."
        )
    # A safetensors file may start with \x80 too, the low byte of its header's length.
    if start.startswith(b"PK\x03\x04") or (
        start.startswith(b"\x80") and int.from_bytes(start, "little") > MOST_HEADER_BYTES
    ):
        raise ModelError(f"{path.name}: this is a pickled checkpoint under another name. {_HOW_TO_CONVERT}")


def weight_files(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """Finds the weights in one folder of a diffusers model: one file, its shards in order, or nothing.

    Args:
        folder: e.g. ``.../unet``.
        stems: file names without suffix, e.g. ``("diffusion_pytorch_model",)``. Full precision is preferred
            to ``.fp16``.

    Raises:
        ModelError: a shard is missing or is no ``.safetensors`` file.
    """
    for stem in stems:
        for variant in ("", ".fp16", ".bf16"):
            whole = folder / f"{stem}{variant}.safetensors"
            if whole.is_file():
                return [whole]
            numbered = "-" + "[0-9]" * 5 + "-of-" + "[0-9]" * 5
            shards = sorted(folder.glob(f"{stem}{variant}{numbered}.safetensors")) or sorted(
                folder.glob(f"{stem}{numbered}{variant}.safetensors")
            )
            # Libraries follow the index, so the files that it names are checked even if others are there.
            named = _shards_of_index(folder, f"{stem}.safetensors.index{variant}.json")
            shards = sorted({*shards, *named})
            if shards:
                _check_shards(folder, shards, stem)
                return shards
    return []


def _shards_of_index(folder: Path, name: str) -> list[Path]:
    """Returns the shards that the folder's index names."""
    if not (folder / name).is_file():
        return []
    places = read_json(folder / name).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()):
        raise ModelError(
            f"{folder.name}/{name}: it does not say which file holds which weight. Download it again."
        )
    names = set(places.values())
    # Libraries open any other file as a pickle.
    other = next((each for each in sorted(names) if not each.endswith(".safetensors")), None)
    if other is not None:
        raise ModelError(
            f"{folder.name}/{name}: it names {other[:80]}, but only .safetensors files are read. Take the "
            ".safetensors version of the model."
        )
    return sorted(resolve_inside(folder, each, error=ModelError) for each in names)


def _check_shards(folder: Path, shards: list[Path], stem: str) -> None:
    absent = next((path for path in shards if not path.is_file()), None)
    if absent is not None:
        raise ModelError(
            f"{folder.name}: {absent.name} is missing, which its index names as a part of {stem}. Download "
            "the missing parts."
        )
    count = re.search(r"-of-(\d{5})", shards[0].name)
    if count and len(shards) != int(count[1]):
        raise ModelError(
            f"{folder.name}: {len(shards)} of {int(count[1])} parts of {stem} are there. Download the "
            "missing ones."
        )


def folder_weights(folder: Path, stems: tuple[str, ...], files: list[Path] | None = None) -> Weights:
    """Opens the weights that ``weight_files`` finds, or ``files`` if they are known already.

    Raises:
        ModelError: there is no ``.safetensors`` file, or one is damaged.
    """
    files = weight_files(folder, stems) if files is None else files
    if files:
        return Weights([read_header(file) for file in files])
    refused = (*PICKLE_SUFFIXES, ".gguf")
    other = next((path for path in sorted(folder.glob("*")) if path.suffix.lower() in refused), None)
    if other is not None:
        refuse_pickle(other)
        _refuse_other_kinds(other)
    raise ModelError(
        f"{folder.name}: there is no {stems[0]}.safetensors in {folder}. The model's folder is incomplete. "
        "Download the missing files."
    )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object such as a model's ``config.json``.

    Raises:
        ModelError: it is missing, larger than 50 MB or not a JSON object.
    """
    what = f"{path.parent.name}/{path.name}"
    try:
        if not path.is_file():
            raise ModelError(f"{what}: missing in {path.parent.parent}. A diffusers folder needs it.")
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ModelError(
                f"{what}: {path.stat().st_size} bytes is too large for a configuration. Download it again."
            )
        table = parse_json(path.read_bytes(), finite=False)
    except OSError as error:
        raise ModelError(f"{what}: it cannot be opened ({error.strerror}). Check its permissions.") from error
    except ValueError as error:
        raise ModelError(f"{what}: not a JSON file ({str(error)[:200]}). Download it again.") from error
    if not isinstance(table, dict):
        raise ModelError(f"{what}: not a table of settings. Download the file again.")
    return table


def read_config(path: Path) -> dict[str, Any]:
    """As ``read_json``, for a network's ``config.json``.

    Raises:
        ModelError: also for more layers than any network has, and for settings that make a library load
            something else than the model's own files.
    """
    table = read_json(path)
    what = f"{path.parent.name}/{path.name}"
    check_counts(table, what)
    check_sources(table, what)
    return table


def fill(
    module: torch.nn.Module,
    tensors: Mapping[str, Tensor],
    part: str,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Fills a module that was built on the ``meta`` device, without holding any weight twice.

    Args:
        module: all its parameters are on ``meta``.
        tensors: by the module's names; others are ignored. Read one at a time.
        part: name of the part, for messages.
        device, dtype: of the weights; integer tensors keep their dtype.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    state: dict[str, Tensor] = {}
    for name, empty in module.state_dict().items():
        tensor = tensors.get(name)
        if tensor is None:
            raise ModelError(
                f"{part}: the weight {name} is missing. The file is incomplete or of another kind. Download "
                "it again."
            )
        if tensor.shape != empty.shape:
            raise ModelError(
                f"{part}: the weight {name} has shape {list(tensor.shape)}; {list(empty.shape)} is needed. "
                "The file is of another kind. Choose another file."
            )
        state[name] = tensor.to(device=device, dtype=dtype if empty.is_floating_point() else None)
    module.load_state_dict(state, assign=True)
    for name, buffer in list(module.named_buffers()):
        # CLIP's position_ids are the only buffers that a state dict leaves out.
        if buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            module.get_submodule(owner).register_buffer(
                leaf, torch.arange(buffer.numel(), device=device).view(buffer.shape), persistent=False
            )


def fingerprint(states: Mapping[str, Tensor]) -> str:
    """Hashes names, shapes and the first numbers of every weight, as fp16. Equal for fp32 and fp16 files."""
    digest = hashlib.sha256()
    for name, tensor in sorted(states.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        if tensor.is_floating_point() and name != "logit_scale":
            digest.update(tensor.flatten()[:64].half().cpu().numpy().tobytes())
    return digest.hexdigest()
