"""Instruction files: safetensors with a checked header, written atomically."""

import base64
import dataclasses
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InstructionError
from ..storage.files import read_tensor, write_tensors
from ..storage.safetensors_header import TensorEntry
from .file_header import (
    INFO_KEY,
    MAX_FILE_BYTES,
    MAX_PARTS,
    MAX_RANK,
    MAX_TENSORS,
    VERSION_KEY,
    PartHeader,
    checked_header,
    read_parts,
    start_of,
)
from .instruction import Blend, Instruction, InstructionInfo, WeightedInstruction, parts_of

# Rounding to fp16 loses about .0003 of a tensor, unless its values are too small or too large.
_MOST_LOST = 1e-3
_MAX_THUMBNAIL_CHARACTERS = 8 * 2**20
_MAX_THUMBNAIL_PIXELS = 4 * 2**20


def save_instruction(
    instruction: Instruction | Blend,
    path: str | Path,
    *,
    overwrite: bool = False,
    thumbnail: Image.Image | None = None,
    extra: Mapping[str, str] | None = None,
    half: bool = False,
) -> Path:
    """Writes an instruction file. A blend becomes one file that holds all its parts and their weights.

    Args:
        instruction: the instruction or blend.
        path: ends in ``.safetensors``; missing folders are created.
        overwrite: replace an existing file.
        thumbnail: shown by tools that show thumbnails of models.
        extra: further header entries such as the ``workflow`` and ``prompt`` that made it; dropping the file
            on ComfyUI's canvas then opens the graph.
        half: write fp16, which halves the file. Tensors that lose more than .001 of their norm stay fp32.

    Returns:
        The path written.

    Raises:
        InstructionError: the name does not end in ``.safetensors``, the file exists and ``overwrite`` is
            false, or there is too much for one file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InstructionError(f"Save instruction: '{path.name}' must end in .safetensors.")
    if os.path.exists(path) and not overwrite:
        raise InstructionError(
            f"Save instruction: '{path}' exists already. Choose another name, or allow it to be overwritten."
        )
    parts = parts_of(instruction)
    version = _version_of(instruction, half)
    tensors: dict[str, Tensor] = {}
    for index, part in enumerate(parts):
        prefix = "" if version == 1 else f"{index}."
        for name, tensor in part.instruction.learned().items():
            tensors[prefix + name] = tensor
        tensors[f"{prefix}context"] = part.instruction.context
    if len(parts) > MAX_PARTS:
        raise InstructionError(
            f"Save instruction: a blend of {len(parts)} instructions is too large for one file. Blend at "
            f"most {MAX_PARTS}."
        )
    rank = max((len(each[0]) for part in parts for each in part.instruction.adapter.values()), default=0)
    if rank > MAX_RANK:
        raise InstructionError(
            f"Save instruction: an adapter of rank {rank} is too large for one file, at most {MAX_RANK} is "
            "possible. Learn with a lower rank, or compose fewer instructions."
        )
    copies = {name: _copy(tensor, half) for name, tensor in tensors.items()}
    size = sum(copy.nbytes for copy in copies.values())
    check_size(size, len(copies))
    metadata = {**(extra or {}), **_metadata(instruction, version, path.stem, thumbnail)}
    write_tensors(copies, path, metadata)
    return path


def check_size(size: int, tensors: int = 0) -> None:
    """Checks that a file of so many bytes and tensors could be read again.

    Raises:
        InstructionError: it could not.
    """
    if tensors > MAX_TENSORS or size > MAX_FILE_BYTES:
        raise InstructionError(
            f"Instruction: {f'{tensors} tensors of ' if tensors else ''}{size / 2**20:.0f} MB are too large "
            f"for one file, which holds at most {MAX_TENSORS} tensors of {MAX_FILE_BYTES / 2**20:.0f} MB. "
            "Learn with fewer rows or a lower rank, save in fp16, or blend fewer instructions."
        )


def read_thumbnail(path: str | Path) -> Image.Image | None:
    """Reads the before/after image in the header; None if there is none.

    Raises:
        InstructionError: as ``read_header``, or the image is damaged or too large. The instruction itself may
            still be readable.
    """
    path = Path(path)
    encoded = checked_header(path).metadata.get("modelspec.thumbnail", "").partition("base64,")[2]
    if not encoded:
        return None
    try:
        return _decoded(encoded)
    except Exception as error:  # Pillow's decoders raise many kinds of errors.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is not a valid JPEG, PNG or WebP" if unknown else str(error)[:200]
        raise InstructionError(
            f"Instruction file '{path.name}': its thumbnail cannot be shown ({reason}). Save the "
            "instruction again for a new one."
        ) from error


def _decoded(encoded: str) -> Image.Image:
    if len(encoded) > _MAX_THUMBNAIL_CHARACTERS:
        raise ValueError(f"it takes {len(encoded) / 2**20:.0f} MB")
    with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=("JPEG", "PNG", "WEBP")) as image:
        if image.width * image.height > _MAX_THUMBNAIL_PIXELS:
            raise ValueError(f"it is {image.width} x {image.height}")
        return image.convert("RGB")


def load_instruction(path: str | Path) -> Instruction | Blend:
    """Reads an instruction file.

    Returns:
        The instruction, or a blend if the file holds several, or one with another weight than 1.

    Raises:
        InstructionError: the file is missing, truncated, no safetensors file, not an instruction, of a newer
            format, or holds other tensors than its header says. The message says which.
    """
    path = Path(path)
    headers, prefixes, entries = read_parts(path)
    expected = [
        _tensor_names(header, prefix, entries) for header, prefix in zip(headers, prefixes, strict=True)
    ]
    mismatched = sorted(set(entries) ^ set().union(*expected))
    if mismatched:
        raise InstructionError(
            f"Instruction file '{path.name}': unexpected or missing tensor '{mismatched[0]}'. The file was "
            "not written by InstructBrush. Choose another file."
        )
    for header, names in zip(headers, expected, strict=True):
        for name in sorted(names):
            _check_entry(name, entries[name], header.info, path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: read_tensor(file, name) for name in entries}
    except (SafetensorError, OSError) as error:
        raise InstructionError(
            f"Instruction file '{path.name}' cannot be read: {error}. Copy or download it again."
        ) from error
    parts = tuple(
        WeightedInstruction(header.weight, _instruction(header, prefix, tensors))
        for header, prefix in zip(headers, prefixes, strict=True)
    )
    if len(parts) == 1 and parts[0].weight == 1:
        return parts[0].instruction
    return Blend(parts)


def _copy(tensor: Tensor, half: bool) -> Tensor:
    """A copy, because safetensors refuses tensors that share memory, as parts made from each other may."""
    copy = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    if half:
        halved = copy.half()
        # Infinite where a value is too large for fp16.
        lost = (halved.float() - copy).norm()
        if lost <= _MOST_LOST * copy.norm():
            return halved
    return copy


def _version_of(instruction: Instruction | Blend, half: bool) -> int:
    """The lowest format that can hold an instruction. Format 1 has no first learned row; its settings say
    it."""
    parts = [part.instruction for part in parts_of(instruction)]
    if half or any(part.info.space == "adapter" for part in parts):
        return 3
    in_format_1 = isinstance(instruction, Instruction) and instruction.info.space == "attention"
    return 1 if in_format_1 and parts[0].start == start_of(parts[0].info) else 2


def _metadata(
    instruction: Instruction | Blend, version: int, name: str, thumbnail: Image.Image | None
) -> dict[str, str]:
    parts = parts_of(instruction)
    infos = [part.instruction.info for part in parts]
    families = "+".join(dict.fromkeys(info.family for info in infos))
    entries = [
        {
            "weight": part.weight,
            "start": part.instruction.start,
            "info": _info_table(part.instruction.info),
        }
        for part in parts
    ]
    if isinstance(instruction, Blend):
        title = name
        description = f"Blend of {len(parts)} instructions: {instruction.title}."
    else:
        title = instruction.title
        description = (
            f"Instruction learned from {infos[0].pairs} before/after pairs, from '{infos[0].init_text}'."
        )
    metadata = {
        VERSION_KEY: str(version),
        INFO_KEY: json.dumps(entries[0]["info"] if version == 1 else {"parts": entries}),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{families}/instructbrush",
        "modelspec.implementation": "instructbrush",
        "modelspec.title": title,
        "modelspec.date": max(info.created for info in infos),
        "modelspec.description": description,
        "ss_base_model_version": families,
    }
    if thumbnail is not None:
        buffer = io.BytesIO()
        thumbnail.convert("RGB").save(buffer, "JPEG", quality=85)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        metadata["modelspec.thumbnail"] = f"data:image/jpeg;base64,{encoded}"
        metadata["ssmd_cover_images"] = json.dumps([encoded])
    return metadata


def _info_table(info: InstructionInfo) -> dict[str, Any]:
    """The fields of ``info`` as JSON values. Unknown scales are left out, as in older files."""
    table = dataclasses.asdict(info)
    if info.text_scale is None:
        del table["text_scale"], table["image_scale"]
    return table


def _tensor_names(header: PartHeader, prefix: str, entries: Mapping[str, TensorEntry]) -> set[str]:
    """Names of the tensors that a part must have. Its sites are those with keys."""
    if header.info.space == "text":
        return {f"{prefix}context", f"{prefix}rows"}
    names = {f"{prefix}context"}
    for name in entries:
        if name.startswith(f"{prefix}keys."):
            names |= {name, f"{prefix}values.{name.removeprefix(f'{prefix}keys.')}"}
        elif name.startswith(f"{prefix}adapter.") and header.info.space == "adapter":
            names.add(name)
    return names


def _check_entry(name: str, entry: TensorEntry, info: InstructionInfo, path: Path) -> None:
    if name.rpartition(".")[2] == "context":
        expected = "[rows, width]"
        fits = len(entry.shape) == 2
    elif ".adapter." in f".{name}":
        expected = f"[1 or {info.segments}, rank up to {MAX_RANK}, width]"
        fits = len(entry.shape) == 3 and entry.shape[0] in (1, info.segments) and entry.shape[1] <= MAX_RANK
    else:
        expected = f"[{info.segments}, {info.tokens}, width]"
        fits = len(entry.shape) == 3 and entry.shape[:2] == (info.segments, info.tokens)
    # Empty tensors cost a file nothing, but what is computed of them may be large.
    if entry.dtype not in ("F32", "F16") or not fits or 0 in entry.shape:
        raise InstructionError(
            f"Instruction file '{path.name}': tensor '{name}' is {entry.dtype} {list(entry.shape)}, expected "
            f"F32 or F16 {expected}. The file is damaged or was changed; save it again."
        )


def _instruction(header: PartHeader, prefix: str, tensors: Mapping[str, Tensor]) -> Instruction:
    own = {
        name.removeprefix(prefix): tensors[name].float()
        for name in sorted(tensors)
        if name.startswith(prefix)
    }

    def of(kind: str) -> dict[str, Tensor]:
        return {name.removeprefix(kind): tensor for name, tensor in own.items() if name.startswith(kind)}

    return Instruction(
        of("keys."),
        of("values."),
        own["context"],
        header.start,
        header.info,
        own.get("rows"),
        of("adapter."),
    )
