"""Reads and checks the headers of safetensors files, before anything they describe is read or allocated."""

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from ..errors import InstructBrushError
from .json_text import parse_json

# The limit of safetensors itself.
MOST_HEADER_BYTES = 100_000_000

_SUBBYTE = ("F4", "F6")
_DTYPE_BITS = {
    name: bits
    for bits, names in {
        4: ("F4",),
        6: ("F6_E2M3", "F6_E3M2"),
        8: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
        16: ("U16", "I16", "F16", "BF16"),
        32: ("U32", "I32", "F32"),
        64: ("U64", "I64", "F64", "C64"),
    }.items()
    for name in names
}
_MOST_SIDES = 64
_CHUNK_BYTES = 1 << 20
# First bytes of the text file that Git LFS leaves in place of a file that was not fetched.
_POINTER = b"version "
_AGAIN = "Download or copy it again."


@dataclass(frozen=True)
class TensorEntry:
    """A header's entry for one tensor, which has the bytes ``begin .. end`` of the file's data."""

    dtype: str
    """The name that safetensors uses, such as "F32"."""
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class TensorHeader:
    """The header of a safetensors file. The tensors fill the file's data without gaps or overlaps."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]


def read_tensor_header(
    path: Path, what: str, error: type[InstructBrushError], most_header: int = MOST_HEADER_BYTES
) -> TensorHeader:
    """Reads only the header of a safetensors file. Files that pass this check can be read by safetensors.

    Args:
        path: the file.
        what: what error messages call the file, such as ``"model.safetensors"``.
        error: class of the errors.
        most_header: most bytes that the header may have.

    Raises:
        InstructBrushError: an ``error``, if the file cannot be opened, is not a safetensors file, is
            truncated, or has a damaged header.
    """
    try:
        with open(path, "rb", opener=_open_regular) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or most_header >= length > size - 8:
                raise error(
                    f"{what}: the file is cut short ({size} bytes, its header alone needs {length + 8}). "
                    f"{_AGAIN}"
                )
            if start == _POINTER:
                raise error(
                    f"{what}: it is a Git LFS pointer, a placeholder for the real file. "
                    "Get the real file with git lfs pull, or download it separately."
                )
            if length > most_header:
                raise error(
                    f"{what}: not a safetensors file (its header would be {length} bytes, "
                    f"at most {most_header} are accepted)."
                )
            raw = file.read(length)
    except (OSError, ValueError) as cause:
        raise error(
            f"{what}: it cannot be opened in {path.parent} ({_reason(cause)}). "
            "Check its name, folder and permissions."
        ) from cause
    try:
        header = parse_json(raw, unique=True)
    except ValueError as cause:
        raise error(f"{what}: not a safetensors file (its header is not JSON: {str(cause)[:80]}).") from cause
    if not raw.startswith(b"{"):
        raise error(f"{what}: not a safetensors file (its header is not a table of tensors).")
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise error(f"{what}: its header is damaged (its metadata is not a table of texts). {_AGAIN}")
    data_bytes = size - 8 - length
    tensors = {name: _entry(what, error, name, entry, data_bytes) for name, entry in header.items()}
    _check_order(what, error, tensors, data_bytes)
    return TensorHeader(metadata, tensors)


def content_digest(path: Path, what: str, error: type[InstructBrushError]) -> str:
    """Hashes the metadata and tensors of a safetensors file: 16 hex digits of its sha256.

    safetensors writes the keys of the metadata in a random order, so the bytes of two files with equal
    contents may differ.

    Raises:
        InstructBrushError: as ``read_tensor_header``.
    """
    header = read_tensor_header(path, what, error)
    tensors = {name: astuple(entry) for name, entry in header.tensors.items()}
    digest = hashlib.sha256(json.dumps([header.metadata, tensors], sort_keys=True).encode())
    with path.open("rb") as file:
        file.seek(-max((entry.end for entry in header.tensors.values()), default=0), os.SEEK_END)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _open_regular(name: str, flags: int) -> int:
    # Opening a pipe would block forever.
    handle = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("it is not a file")
    return handle


def _entry(what: str, error: type[InstructBrushError], name: str, entry: Any, data_bytes: int) -> TensorEntry:
    try:
        parsed = _parsed(entry)
    except (LookupError, TypeError, ValueError) as cause:
        raise error(
            f"{what}: its header describes tensor '{name[:80]}' wrongly, so it is damaged. {_AGAIN}"
        ) from cause
    if parsed.dtype.startswith(_SUBBYTE):
        raise error(
            f"{what}: tensor '{name[:80]}' is stored in {parsed.dtype}, which is not supported. "
            "Take the file in fp16, bf16 or fp32."
        )
    if parsed.end > data_bytes:
        raise error(
            f"{what}: the file is cut short: tensor '{name[:80]}' ends at byte {parsed.end} of its data, "
            f"the file holds {data_bytes}. {_AGAIN}"
        )
    return parsed


def _parsed(entry: Any) -> TensorEntry:
    """Parses an entry and checks that its length fits its dtype and shape.

    Raises:
        LookupError, TypeError, ValueError: the entry is malformed.
    """
    dtype = entry["dtype"]
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if len(entry) > 3 or not isinstance(entry["shape"], list) or len(shape) > _MOST_SIDES:
        raise ValueError("other keys, or no list of sides")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, begin, end)):
        raise ValueError("a number that is not a size")
    # Sides of 0 count as 1, because the strides of an empty tensor must fit into 64 bits too.
    if math.prod(max(side, 1) for side in shape) >= 2**60:
        raise ValueError("too large")
    bits = 8 * (end - begin)
    if bits != math.prod(shape) * _DTYPE_BITS[dtype]:
        raise ValueError("another length than its shape needs")
    return TensorEntry(dtype, shape, begin, end)


def _check_order(
    what: str, error: type[InstructBrushError], tensors: Mapping[str, TensorEntry], data_bytes: int
) -> None:
    """Checks that the tensors fill the data without gaps or overlaps."""
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise error(
                f"{what}: its header is damaged: tensor '{name[:80]}' begins at byte {entry.begin} "
                f"of its data instead of {end}. {_AGAIN}"
            )
        end = entry.end
    if end != data_bytes:
        raise error(
            f"{what}: its header is damaged: its tensors end at byte {end} of its data, "
            f"the file holds {data_bytes}. {_AGAIN}"
        )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
