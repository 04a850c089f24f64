"""Checks the names that users give to files and folders, before they become a path."""

import os
from pathlib import Path

from ..errors import InstructBrushError, InstructionError
from ..windows import is_windows

# Most bytes of a file name on the usual file systems, and of a whole path.
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4000
# Bytes kept free in a new name for the number that makes it unique.
_NUMBER_BYTES = 8
# Folders that are deeper are not listed.
_MOST_PARTS = 9
_UNPORTABLE = frozenset('<>:"|?*')
# Names that Windows reserves, with any ending.
_DEVICES = frozenset(
    {
        *("con", "prn", "aux", "nul", "conin$", "conout$"),
        *(f"{kind}{number}" for kind in ("com", "lpt") for number in "123456789¹²³"),
    }
)


def resolve_inside(
    folder: str | Path,
    name: str,
    suffix: str = "",
    *,
    new: bool = False,
    error: type[InstructBrushError] = InstructionError,
) -> Path:
    """Returns the path of ``name`` below ``folder``.

    The name may contain sub-folders but cannot leave the folder. Links in the folder are followed.

    Args:
        folder: folder of the file or folder.
        name: with or without ``suffix``.
        suffix: ending of the file's name.
        new: whether the name is for a new file; then it must be valid on other systems too, and must leave
            room for a number.
        error: class of the errors.

    Raises:
        InstructBrushError: an ``error``, if the name is empty, absolute, too long or deep, leaves the folder,
            or has characters that file names cannot have.
    """
    if is_windows():
        # As Windows and ComfyUI's own lists write it there.
        name = name.replace("\\", "/")
    reason = _reason(name, suffix, new)
    path = Path(folder) / f"{name.strip().removesuffix(suffix)}{suffix}"
    if not reason and len(os.fsencode(path)) > _MAX_PATH_BYTES:
        length = len(os.fsencode(path))
        reason = f"its path would be {length} bytes long; at most {_MAX_PATH_BYTES} are possible"
    elif not reason and new and name.count("/") >= _MOST_PARTS:
        reason = f"it has {name.count('/') + 1} parts; at most {_MOST_PARTS} are possible"
    if reason:
        raise error(
            f"Name {_shown(name)} cannot be used: {reason}. "
            "Use a plain name such as 'snow' or 'weather/snow'."
        )
    return path


def is_usable(name: str) -> bool:
    """Whether ``resolve_inside`` accepts the name of an existing file."""
    return name == name.strip() and not _reason(name, "", False)


def _reason(name: str, suffix: str, new: bool) -> str:
    """Returns why a name cannot be used, or an empty text."""
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "it holds a control character"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        return "it holds an incomplete character"
    if "\\" in name:
        return "it holds a backslash"
    parts = name.strip().removesuffix(suffix).split("/")
    if parts == [""]:
        return "it is empty"
    for part in parts:
        if not part.strip(" ."):
            return "it starts with a slash, or a part of it is empty or made of dots"
        if (new or is_windows()) and part.split(".")[0].strip().lower() in _DEVICES:
            return f"'{part}' is reserved on Windows"
        if (new or is_windows()) and _UNPORTABLE & set(part):
            return f"it holds one of {' '.join(sorted(_UNPORTABLE))}"
        if new and part[-1] in " .":
            return "a part of it ends with a dot or a space"
        longest = _MAX_NAME_BYTES - (_NUMBER_BYTES if new else 0) - len(suffix.encode())
        # Windows counts UTF-16 units, of which there are never more than bytes.
        length = len(part.encode("utf-16-le")) // 2 if is_windows() and not new else len(part.encode())
        if length > longest:
            return f"it is {length} bytes long; at most {longest} are possible"
    if new and any(folder.startswith(".") for folder in parts[:-1]):
        return "a folder in it starts with a dot, which hides it"
    return ""


def _shown(name: str) -> str:
    shown = repr(name)
    return shown if len(shown) <= 60 else f"{shown[:57]}…'"
