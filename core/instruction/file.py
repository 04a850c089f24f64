"""Instruction files: safetensors with a checked header, written atomically."""

import base64
import dataclasses
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InstructionError
from ..storage.files import write_tensors
from ..storage.json_text import parse_json, read_record
from ..storage.safetensors_header import TensorEntry, TensorHeader, read_tensor_header
from .instruction import Blend, Instruction, InstructionInfo, WeightedInstruction, parts_of

# Format 1 holds one instruction in attention space. Format 2 also holds text space and blends.
# What fits into format 1 is written as format 1, so that older versions can read it.
FORMAT_VERSION = 2
_VERSION_KEY = "instructbrush.version"
_INFO_KEY = "instructbrush.info"
_MAX_HEADER_BYTES = 64 * 2**20
_MAX_FILE_BYTES = 2**30
_MAX_TENSORS = 4096
_MAX_PARTS = 16
_MAX_THUMBNAIL_CHARACTERS = 8 * 2**20
_MAX_THUMBNAIL_PIXELS = 4 * 2**20
_MAX_TEXT_CHARACTERS = 100_000
_MAX_LOSSES = 10_000
_MAX_SETTINGS = 1000
_MAX_COUNT = 2**53
_MAX_SCALE = 100


@dataclass(frozen=True)
class _PartEntry:
    """The JSON of one part in the header."""

    weight: float
    start: int
    info: Mapping[str, Any]


@dataclass(frozen=True)
class _UsedSettings:
    """The learning settings that are used after learning, so their types are checked."""

    seed: int = 0
    noise: str = ""
    include_bos: bool = False


@dataclass(frozen=True)
class PartHeader:
    """The header of one instruction in a file."""

    weight: float
    info: InstructionInfo
    start: int
    """First learned row, 0 or 1."""


def save_instruction(
    instruction: Instruction | Blend,
    path: str | Path,
    *,
    overwrite: bool = False,
    thumbnail: Image.Image | None = None,
    extra: Mapping[str, str] | None = None,
) -> Path:
    """Writes an instruction file. A blend becomes one file that holds all its parts and their weights.

    Args:
        instruction: the instruction or blend.
        path: ends in ``.safetensors``; missing folders are created.
        overwrite: replace an existing file.
        thumbnail: shown by tools that show thumbnails of models.
        extra: further header entries such as the ``workflow`` and ``prompt`` that made it; dropping the file
            on ComfyUI's canvas then opens the graph.

    Returns:
        The path written.

    Raises:
        InstructionError: the name does not end in ``.safetensors``, the file exists and ``overwrite`` is
            false, or there are too many parts for one file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InstructionError(f"Save instruction: '{path.name}' must end in .safetensors.")
    if os.path.exists(path) and not overwrite:
        raise InstructionError(
            f"Save instruction: '{path}' exists already. Choose another name, or allow it to be overwritten."
        )
    parts = parts_of(instruction)
    as_format_1 = _fits_format_1(instruction)
    tensors: dict[str, Tensor] = {}
    for index, part in enumerate(parts):
        prefix = "" if as_format_1 else f"{index}."
        for name, tensor in part.instruction.learned().items():
            tensors[prefix + name] = tensor
        tensors[f"{prefix}context"] = part.instruction.context
    if len(parts) > _MAX_PARTS or len(tensors) > _MAX_TENSORS - 1:
        raise InstructionError(
            f"Save instruction: a blend of {len(parts)} instructions is too large for one file. Blend at "
            f"most {_MAX_PARTS}."
        )
    metadata = {**(extra or {}), **_metadata(instruction, as_format_1, path.stem, thumbnail)}
    # Copies, because safetensors refuses tensors that share memory, as parts made from each other may.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_tensors(copies, path, metadata)
    return path


def read_header(path: str | Path) -> tuple[PartHeader, ...]:
    """Reads the headers of all instructions in a file, one or the parts of a blend, without their tensors.

    Raises:
        InstructionError: as ``load_instruction``.
    """
    return _read(Path(path))[0]


def read_thumbnail(path: str | Path) -> Image.Image | None:
    """Reads the before/after image in the header; None if there is none.

    Raises:
        InstructionError: as ``read_header``, or the image is damaged or too large. The instruction itself may
            still be readable.
    """
    path = Path(path)
    encoded = _checked_header(path).metadata.get("modelspec.thumbnail", "").partition("base64,")[2]
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
    headers, prefixes, entries = _read(path)
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
        for name in names:
            _check_entry(name, entries[name], header.info, path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in entries}
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


def _fits_format_1(instruction: Instruction | Blend) -> bool:
    """Format 1 knows neither weights nor text space. Its settings hold the first learned row."""
    if isinstance(instruction, Blend) or instruction.info.space != "attention":
        return False
    return instruction.start == _start_of(instruction.info)


def _start_of(info: InstructionInfo) -> int:
    return 0 if info.settings.get("include_bos") else 1


def _metadata(
    instruction: Instruction | Blend, as_format_1: bool, name: str, thumbnail: Image.Image | None
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
        _VERSION_KEY: "1" if as_format_1 else str(FORMAT_VERSION),
        _INFO_KEY: json.dumps(entries[0]["info"] if as_format_1 else {"parts": entries}),
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


def _checked_header(path: Path) -> TensorHeader:
    what = f"Instruction file '{path.name}'"
    header = read_tensor_header(path, what, InstructionError, _MAX_HEADER_BYTES)
    size = max((entry.end for entry in header.tensors.values()), default=0)
    if size > _MAX_FILE_BYTES or len(header.tensors) > _MAX_TENSORS:
        raise InstructionError(
            f"{what} is not an instruction: it holds {len(header.tensors)} tensors of {size / 2**20:.0f} MB, "
            "too many for one. Choose a file that Save Instruction wrote."
        )
    return header


def _read(path: Path) -> tuple[tuple[PartHeader, ...], list[str], Mapping[str, TensorEntry]]:
    """Returns the parts' headers, the prefix of each part's tensors, and the entries of all tensors."""
    header = _checked_header(path)
    version = header.metadata.get(_VERSION_KEY)
    info_json = header.metadata.get(_INFO_KEY)
    if version is None or info_json is None:
        raise InstructionError(
            f"'{path.name}' is a safetensors file but not an instruction. Choose a file that Save "
            "Instruction wrote."
        )
    if version not in map(str, range(1, FORMAT_VERSION + 1)):
        raise InstructionError(
            f"Instruction file '{path.name}' has format {version[:20]}; this version reads up to "
            f"{FORMAT_VERSION}. Update InstructBrush."
        )
    try:
        content = parse_json(info_json)
        if version == "1":
            return (_format_1_header(content),), [""], header.tensors
        parts = content.get("parts") if isinstance(content, dict) else None
        if not isinstance(parts, list) or not 1 <= len(parts) <= _MAX_PARTS:
            raise ValueError(f"not 1 to {_MAX_PARTS} parts")
        headers = tuple(_part_header(part) for part in parts)
    except ValueError as error:
        raise InstructionError(
            f"Instruction file '{path.name}': its header is damaged ({error}). Copy or download it again."
        ) from error
    return headers, [f"{index}." for index in range(len(headers))], header.tensors


def _format_1_header(content: Any) -> PartHeader:
    info = _info(content)
    if info.space != "attention":
        raise ValueError(f"format 1 does not know {info.space} space")
    return PartHeader(1.0, info, _start_of(info))


def _part_header(part: Any) -> PartHeader:
    entry = read_record(_PartEntry, part)
    if entry.start not in (0, 1):
        raise ValueError("its first row is neither 0 nor 1")
    return PartHeader(entry.weight, _info(entry.info), entry.start)


def _info(values: Any) -> InstructionInfo:
    info = read_record(InstructionInfo, values)
    if not (1 <= info.segments <= 1000 and 1 <= info.tokens <= 4096):
        raise ValueError("segments or tokens out of range")
    if min(info.pairs, info.steps) < 0 or max(info.pairs, info.steps) > _MAX_COUNT:
        raise ValueError("pairs or steps out of range")
    if len(info.losses) > _MAX_LOSSES:
        raise ValueError(f"{len(info.losses)} losses, at most {_MAX_LOSSES} are expected")
    for name in ("family", "fingerprint", "init_text", "title", "created", "model_title"):
        if len(getattr(info, name)) > _MAX_TEXT_CHARACTERS:
            raise ValueError(f"{name} has more than {_MAX_TEXT_CHARACTERS} characters")
    if len(info.settings) > _MAX_SETTINGS:
        raise ValueError(f"{len(info.settings)} settings, at most {_MAX_SETTINGS} are expected")
    _check_scales(info)
    read_record(_UsedSettings, info.settings)
    for name, value in info.settings.items():
        if not isinstance(value, str | int | float | None) or len(f"{name}{value}") > _MAX_TEXT_CHARACTERS:
            raise ValueError(f"setting {name[:40]} is not a plain value")
    return info


def _check_scales(info: InstructionInfo) -> None:
    scales = [scale for scale in (info.text_scale, info.image_scale) if scale is not None]
    if len(scales) == 1:
        raise ValueError("it has one of text_scale and image_scale without the other")
    if any(not 0 <= scale <= _MAX_SCALE for scale in scales):
        raise ValueError(f"text_scale or image_scale lies outside of 0 to {_MAX_SCALE}")


def _tensor_names(header: PartHeader, prefix: str, entries: Mapping[str, TensorEntry]) -> set[str]:
    """Names of the tensors that a part must have. Its sites are those with keys."""
    if header.info.space == "text":
        return {f"{prefix}context", f"{prefix}rows"}
    sites = [name.removeprefix(f"{prefix}keys.") for name in entries if name.startswith(f"{prefix}keys.")]
    return {f"{prefix}context", *(f"{prefix}{kind}.{site}" for kind in ("keys", "values") for site in sites)}


def _check_entry(name: str, entry: TensorEntry, info: InstructionInfo, path: Path) -> None:
    if name.rpartition(".")[2] == "context":
        expected = "[rows, width]"
        fits = len(entry.shape) == 2
    else:
        expected = f"[{info.segments}, {info.tokens}, width]"
        fits = len(entry.shape) == 3 and entry.shape[:2] == (info.segments, info.tokens)
    if entry.dtype != "F32" or not fits:
        raise InstructionError(
            f"Instruction file '{path.name}': tensor '{name}' is {entry.dtype} {list(entry.shape)}, expected "
            f"F32 {expected}. The file is damaged or was changed; save it again."
        )


def _instruction(header: PartHeader, prefix: str, tensors: Mapping[str, Tensor]) -> Instruction:
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    keys = {name.removeprefix("keys."): own[name] for name in sorted(own) if name.startswith("keys.")}
    values = {name.removeprefix("values."): own[name] for name in sorted(own) if name.startswith("values.")}
    return Instruction(keys, values, own["context"], header.start, header.info, own.get("rows"))
