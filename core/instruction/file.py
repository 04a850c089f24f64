"""Instruction files: safetensors with a checked header, written so that a crash leaves either the old file or the new one."""

import base64
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InstructionError
from .artefact import Instruction, InstructionInfo

FORMAT_VERSION = 1
_VERSION_KEY = "instructbrush.version"
_INFO_KEY = "instructbrush.info"
_MAX_HEADER_BYTES = 64 * 2**20
_MAX_FILE_BYTES = 2**30
_MAX_TENSORS = 4096


def save_instruction(
    instruction: Instruction,
    path: str | Path,
    *,
    overwrite: bool = False,
    thumbnail: Image.Image | None = None,
    extra: Mapping[str, str] | None = None,
) -> Path:
    """Write an instruction file.

    Args:
        instruction: what to save.
        path: ends in ``.safetensors``; missing folders are made.
        overwrite: replace an existing file.
        thumbnail: shown by tools that show thumbnails of models.
        extra: further header entries such as the ``workflow`` and ``prompt`` that made it; dropping the file on the canvas then reopens the graph.

    Returns:
        The path written.

    Raises:
        InstructionError: the name does not end in ``.safetensors``, or the file exists and ``overwrite`` is false.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InstructionError(f"Save instruction: '{path.name}' must end in .safetensors.")
    if path.exists() and not overwrite:
        raise InstructionError(f"Save instruction: '{path}' exists already. Choose another name, or allow it to be overwritten.")
    tensors = {f"keys.{site}": tensor for site, tensor in instruction.keys.items()}
    tensors |= {f"values.{site}": tensor for site, tensor in instruction.values.items()}
    tensors["context"] = instruction.context
    metadata = {**(extra or {}), **_metadata(instruction, thumbnail)}
    write_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically: into a temporary file beside it, flushed to disk, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes files for the owner alone; models are shared.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_header(path: str | Path) -> InstructionInfo:
    """What a file says of itself, without reading its tensors.

    Raises:
        InstructionError: as :func:`load_instruction`.
    """
    return _info(_checked_header(Path(path)).get("__metadata__", {}), Path(path))


def read_thumbnail(path: str | Path) -> Image.Image | None:
    """The before/after picture in the header, or None."""
    metadata = _checked_header(Path(path)).get("__metadata__", {})
    encoded = metadata.get("modelspec.thumbnail", "").partition("base64,")[2]
    return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB") if encoded else None


def load_instruction(path: str | Path) -> Instruction:
    """Read an instruction file.

    Raises:
        InstructionError: missing, truncated, no safetensors file, not an instruction, of a newer format, or holding other tensors than its
            header promises. The message says which.
    """
    path = Path(path)
    header = _checked_header(path)
    info = _info(header.pop("__metadata__", {}), path)
    sites = sorted(name.removeprefix("keys.") for name in header if name.startswith("keys."))
    expected = {"context", *(f"keys.{site}" for site in sites), *(f"values.{site}" for site in sites)}
    foreign = sorted(set(header) ^ expected)
    if foreign:
        raise InstructionError(f"Instruction file '{path.name}': unexpected or missing tensor '{foreign[0]}'. The file was not written by InstructBrush.")
    for name, entry in header.items():
        shape = entry.get("shape", [])
        if entry.get("dtype") != "F32" or (name != "context" and shape[:2] != [info.segments, info.tokens]):
            raise InstructionError(
                f"Instruction file '{path.name}': tensor '{name}' is {entry.get('dtype')} {shape}, expected F32 "
                f"[{info.segments}, {info.tokens}, width]. The file is damaged or was changed; save it again."
            )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in header}
    except SafetensorError as error:
        raise InstructionError(f"Instruction file '{path.name}' cannot be read: {error}. Copy or download it again.") from error
    start = 0 if info.settings.get("include_bos") else 1
    return Instruction(
        {site: tensors[f"keys.{site}"] for site in sites}, {site: tensors[f"values.{site}"] for site in sites}, tensors["context"], start, info
    )


def resolve_inside(folder: str | Path, name: str, suffix: str = "") -> Path:
    """The path of ``name`` inside ``folder``; sub-folders are welcome, leaving the folder is not.

    Raises:
        InstructionError: the name is empty, absolute, or climbs out.
    """
    folder = Path(folder).resolve()
    parts = name.strip().removesuffix(suffix).split("/")
    if any(part.strip(" .") == "" for part in parts) or any(character in name for character in "\0:\\"):
        raise InstructionError(f"Name {name!r} cannot be used. Use a plain name such as 'snow' or 'weather/snow'.")
    target = (folder / f"{'/'.join(parts)}{suffix}").resolve()
    # A symbolic link inside the folder may still lead out of it.
    if not target.is_relative_to(folder):
        raise InstructionError(f"Name {name!r} leaves the folder {folder.name}. Use a plain name such as 'snow' or 'weather/snow'.")
    return target


def _metadata(instruction: Instruction, thumbnail: Image.Image | None) -> dict[str, str]:
    info = instruction.info
    metadata = {
        _VERSION_KEY: str(FORMAT_VERSION),
        _INFO_KEY: json.dumps(dataclasses.asdict(info)),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{info.family}/instructbrush",
        "modelspec.implementation": "instructbrush",
        "modelspec.title": info.title or info.init_text or "instruction",
        "modelspec.date": info.created,
        "modelspec.description": f"Instruction learned from {info.pairs} before/after pairs, from '{info.init_text}'.",
        "ss_base_model_version": info.family,
    }
    if thumbnail is not None:
        buffer = io.BytesIO()
        thumbnail.convert("RGB").save(buffer, "JPEG", quality=85)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        metadata["modelspec.thumbnail"] = f"data:image/jpeg;base64,{encoded}"
        metadata["ssmd_cover_images"] = json.dumps([encoded])
    return metadata


def _checked_header(path: Path) -> dict[str, Any]:
    """The safetensors header, after its sizes were compared with the file's: nothing is allocated on a header's word."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise InstructionError(f"Instruction file '{path.name}' is truncated or no safetensors file. Copy or download it again.")
            if length > _MAX_HEADER_BYTES or size > _MAX_FILE_BYTES:
                raise InstructionError(f"Instruction file '{path.name}' is {size / 2**20:.0f} MB with a header of {length / 2**20:.0f} MB: too large for one.")
            header = json.loads(file.read(length))
    except OSError as error:
        raise InstructionError(f"Instruction file '{path}' cannot be opened: {error.strerror}. Check its name and folder.") from error
    except ValueError as error:
        raise InstructionError(f"Instruction file '{path.name}' is no safetensors file. Choose a file that Save Instruction wrote.") from error
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise InstructionError(f"Instruction file '{path.name}' is no instruction: it holds too many tensors. Choose a file that Save Instruction wrote.")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__" and isinstance(entry, dict) and "data_offsets" in entry]
    if max(ends, default=0) != size - 8 - length:
        raise InstructionError(f"Instruction file '{path.name}' is truncated: its header promises other sizes. Copy or download it again.")
    return header


def _info(metadata: Mapping[str, str], path: Path) -> InstructionInfo:
    if _VERSION_KEY not in metadata or _INFO_KEY not in metadata:
        raise InstructionError(f"'{path.name}' is a safetensors file but no instruction. Choose a file that Save Instruction wrote.")
    version = metadata[_VERSION_KEY]
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise InstructionError(f"Instruction file '{path.name}' has format {version}, this version reads up to {FORMAT_VERSION}. Update InstructBrush.")
    try:
        values = json.loads(metadata[_INFO_KEY])
        known = {field.name for field in dataclasses.fields(InstructionInfo)}
        entries: dict[str, Any] = {key: tuple(value) if key == "losses" else value for key, value in values.items() if key in known}
        info = InstructionInfo(**entries)
        if not (1 <= int(info.segments) <= 1000 and 1 <= int(info.tokens) <= 4096 and isinstance(info.settings, dict)):
            raise ValueError("segments or tokens out of range")
    except (ValueError, TypeError, AttributeError) as error:
        raise InstructionError(f"Instruction file '{path.name}': its header is damaged ({error}). Copy or download it again.") from error
    return info
