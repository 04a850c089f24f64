"""Names that users give to files and folders: checked in one place before they become a path."""

import os
from pathlib import Path

from ..errors import InstructBrushError, InstructionError

_LONGEST = 255
"""Bytes of a file's name, on the usual file systems."""
_LONGEST_PATH = 4000
"""Bytes of a file's whole path."""
_NUMBER = 8
"""Bytes that stay free in a new name, for the number that makes it unique."""
_UNPORTABLE = frozenset('<>:"|?*')
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(1, 10))}
)
"""Names that Windows keeps for itself, with any ending."""


def resolve_inside(
    folder: str | Path,
    name: str,
    suffix: str = "",
    *,
    new: bool = False,
    error: type[InstructBrushError] = InstructionError,
) -> Path:
    """The path of ``name`` below ``folder``. Sub-folders are welcome, and so are links that the user has put there; the name itself cannot leave the folder.

    Args:
        folder: where the file or folder lies, or will lie.
        name: with or without ``suffix``.
        suffix: what the file's name ends in.
        new: the name is for something that will be written, so it must also be possible on other systems and leave room for a number.
        error: what to raise.

    Raises:
        InstructBrushError: the name is empty, absolute, too long, climbs out, or has characters that no file name has. It is one of ``error``.
    """
    reason = _reason(name, suffix, new)
    path = Path(folder) / f"{name.strip().removesuffix(suffix)}{suffix}"
    if not reason and len(os.fsencode(path)) > _LONGEST_PATH:
        reason = (
            f"its path would be {len(os.fsencode(path))} bytes long, at most {_LONGEST_PATH} are possible"
        )
    if reason:
        raise error(
            f"Name {_shown(name)} cannot be used: {reason}. Use a plain name such as 'snow' or 'weather/snow'."
        )
    return path


def is_usable(name: str) -> bool:
    """Whether something that lies in a folder under this name can be found again by :func:`resolve_inside`."""
    return name == name.strip() and not _reason(name, "", False)


def _reason(name: str, suffix: str, new: bool) -> str:
    """Why a name cannot be used; empty for a good one."""
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "it holds a control character"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        return "it holds half a character"
    if "\\" in name:
        return "it holds a backslash"
    parts = name.strip().removesuffix(suffix).split("/")
    if parts == [""]:
        return "it is empty"
    for part in parts:
        if not part.strip(" ."):
            return "it starts with a slash, or a part of it is empty or made of dots"
        if (new or os.name == "nt") and part.split(".")[0].strip().lower() in _DEVICES:
            return f"'{part}' is reserved on Windows"
        if (new or os.name == "nt") and _UNPORTABLE & set(part):
            return f"it holds one of {' '.join(sorted(_UNPORTABLE))}"
        if new and part[-1] in " .":
            return "a part of it ends with a dot or a space"
        longest = _LONGEST - (_NUMBER if new else 0) - len(suffix.encode())
        if len(part.encode()) > longest:
            return f"it is {len(part.encode())} bytes long, at most {longest} are possible"
    return ""


def _shown(name: str) -> str:
    shown = repr(name)
    return shown if len(shown) <= 60 else f"{shown[:57]}…'"
