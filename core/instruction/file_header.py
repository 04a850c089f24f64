"""The checked header of an instruction file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InstructionError
from ..storage.json_text import parse_json, read_record
from ..storage.safetensors_header import TensorEntry, TensorHeader, read_tensor_header
from .instruction import InstructionInfo

# Format 1 holds one instruction in attention space. Format 2 also holds text space and blends. Format 3 also
# holds adapters and half precision. Each file has the lowest format that fits, so that older versions can
# read it.
FORMAT_VERSION = 3
VERSION_KEY = "instructbrush.version"
INFO_KEY = "instructbrush.info"
MAX_PARTS = 16
# An adapter at every place of SDXL, with keys and values, has 1,541.
MAX_TENSORS = MAX_PARTS * 1600
MAX_FILE_BYTES = 2**30
# The settings allow 1024, and composing adds the ranks.
MAX_RANK = 4096
_MAX_HEADER_BYTES = 64 * 2**20
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


def read_header(path: str | Path) -> tuple[PartHeader, ...]:
    """Reads the headers of all instructions in a file, one or the parts of a blend, without their tensors.

    Raises:
        InstructionError: as ``load_instruction``.
    """
    return read_parts(Path(path))[0]


def start_of(info: InstructionInfo) -> int:
    """The first learned row as the settings say it; format 1 has no other place for it."""
    return 0 if info.settings.get("include_bos") else 1


def checked_header(path: Path) -> TensorHeader:
    what = f"Instruction file '{path.name}'"
    header = read_tensor_header(path, what, InstructionError, _MAX_HEADER_BYTES)
    size = max((entry.end for entry in header.tensors.values()), default=0)
    if size > MAX_FILE_BYTES or len(header.tensors) > MAX_TENSORS:
        raise InstructionError(
            f"{what} is not an instruction: it holds {len(header.tensors)} tensors of {size / 2**20:.0f} MB, "
            "too many for one. Choose a file that Save Instruction wrote."
        )
    return header


def read_parts(path: Path) -> tuple[tuple[PartHeader, ...], list[str], Mapping[str, TensorEntry]]:
    """Returns the parts' headers, the prefix of each part's tensors, and the entries of all tensors."""
    header = checked_header(path)
    return *parts_in(header, path), header.tensors


def parts_in(header: TensorHeader, path: Path) -> tuple[tuple[PartHeader, ...], list[str]]:
    """Returns the parts' headers, and the prefix of each part's tensors.

    Args:
        header: of ``checked_header``.
        path: the file, for messages.

    Raises:
        InstructionError: the file is no instruction, or its header is damaged.
    """
    version = header.metadata.get(VERSION_KEY)
    info_json = header.metadata.get(INFO_KEY)
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
            return (_format_1_header(content),), [""]
        parts = content.get("parts") if isinstance(content, dict) else None
        if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
            raise ValueError(f"not 1 to {MAX_PARTS} parts")
        headers = tuple(_part_header(part) for part in parts)
    except ValueError as error:
        raise InstructionError(
            f"Instruction file '{path.name}': its header is damaged ({error}). Copy or download it again."
        ) from error
    return headers, [f"{index}." for index in range(len(headers))]


def _format_1_header(content: Any) -> PartHeader:
    info = _info(content)
    if info.space != "attention":
        raise ValueError(f"format 1 does not know {info.space} space")
    return PartHeader(1.0, info, start_of(info))


def _part_header(part: Any) -> PartHeader:
    entry = read_record(_PartEntry, part)
    if entry.start not in (0, 1):
        raise ValueError("its first row is neither 0 nor 1")
    return PartHeader(entry.weight, _info(entry.info), entry.start)


def _info(values: Any) -> InstructionInfo:
    info = read_record(InstructionInfo, values)
    least_tokens = 0 if info.space == "adapter" else 1
    if not (1 <= info.segments <= 1000 and least_tokens <= info.tokens <= 4096):
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
