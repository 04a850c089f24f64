"""Headers of safetensors files, checked before anything is read or allocated on their word."""

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InstructBrushError
from .json_text import parse_json

MOST_HEADER_BYTES = 100_000_000
"""As safetensors itself."""

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
_POINTER = b"version "
"""How the text begins that Git LFS leaves in place of a file that was not fetched."""
_AGAIN = "Download or copy it again."


@dataclass(frozen=True)
class TensorEntry:
    """What a header says of one tensor. Its bytes are ``begin .. end`` of the file's data."""

    dtype: str
    """As safetensors writes it: "F32"."""
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class TensorHeader:
    """The header of a safetensors file: its metadata, and an entry for each tensor. The entries fill the file's data without holes or overlaps."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]


def read_tensor_header(
    path: Path, what: str, error: type[InstructBrushError], most_header: int = MOST_HEADER_BYTES
) -> TensorHeader:
    """Read the header of a safetensors file and nothing else. What passes, safetensors reads as well.

    Args:
        path: of the file.
        what: what messages call it, such as ``"model.safetensors"``.
        error: what to raise.
        most_header: bytes that its header may have.

    Raises:
        InstructBrushError: it cannot be opened, is no safetensors file, is cut short, or its header is damaged. It is one of ``error``.
    """
    try:
        with open(path, "rb", opener=_open_regular) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or most_header >= length > size - 8:
                raise error(
                    f"{what}: the file is cut short ({size} bytes, its header alone needs {length + 8}). {_AGAIN}"
                )
            if start == _POINTER:
                raise error(
                    f"{what}: it is a pointer of Git LFS, which stands for the real file. Get that one: git lfs pull, or download it by itself."
                )
            if length > most_header:
                raise error(
                    f"{what}: not a safetensors file (its header would be {length} bytes, at most {most_header} are accepted)."
                )
            raw = file.read(length)
    except (OSError, ValueError) as cause:
        raise error(
            f"{what}: it cannot be opened in {path.parent} ({_reason(cause)}). Check its name and folder, and that it may be read."
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
        raise error(f"{what}: its header is damaged (its metadata is no table of texts). {_AGAIN}")
    held = size - 8 - length
    tensors = {name: _entry(what, error, name, entry, held) for name, entry in header.items()}
    _check_order(what, error, tensors, held)
    return TensorHeader(metadata, tensors)


def _open_regular(name: str, flags: int) -> int:
    # A pipe would keep the reader waiting for ever.
    handle = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("it is no file")
    return handle


def _entry(what: str, error: type[InstructBrushError], name: str, entry: Any, held: int) -> TensorEntry:
    try:
        found = _parsed(entry)
    except (LookupError, TypeError, ValueError) as cause:
        raise error(
            f"{what}: its header describes tensor '{name[:80]}' wrongly, so it is damaged. {_AGAIN}"
        ) from cause
    if found.dtype.startswith(_SUBBYTE):
        raise error(
            f"{what}: tensor '{name[:80]}' is stored in {found.dtype}, which is not read. Take the file in fp16, bf16 or fp32."
        )
    if found.end > held:
        raise error(
            f"{what}: the file is cut short: tensor '{name[:80]}' ends at byte {found.end} of its data, the file holds {held}. {_AGAIN}"
        )
    return found


def _parsed(entry: Any) -> TensorEntry:
    """An entry whose length is what its dtype and shape need.

    Raises:
        LookupError, TypeError, ValueError: it is not.
    """
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if len(entry) > 3 or not isinstance(entry["shape"], list) or len(shape) > _MOST_SIDES:
        raise ValueError("other keys, or no list of sides")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, begin, end)):
        raise ValueError("a number that is no size")
    # Empty sides do not count: the strides of an empty tensor have 64 bits too.
    if math.prod(max(side, 1) for side in shape) >= 2**60:
        raise ValueError("too large")
    bits = 8 * (end - begin)
    if bits != math.prod(shape) * _DTYPE_BITS[dtype]:
        raise ValueError("another length than its shape needs")
    return TensorEntry(dtype, shape, begin, end)


def _check_order(
    what: str, error: type[InstructBrushError], tensors: Mapping[str, TensorEntry], held: int
) -> None:
    """See that the tensors fill the data without holes or overlaps."""
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise error(
                f"{what}: its header is damaged: tensor '{name[:80]}' begins at byte {entry.begin} of its data instead of {end}. {_AGAIN}"
            )
        end = entry.end
    if end != held:
        raise error(
            f"{what}: its header is damaged: its tensors end at byte {end} of its data, the file holds {held}. {_AGAIN}"
        )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
