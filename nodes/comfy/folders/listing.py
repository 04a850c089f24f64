"""What lies in the user's folders. Nothing here raises: what cannot be read is left out, and told once in the log. A changed folder is read again."""

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ....core.storage.names import is_usable

_SETTLED = 2 * 10**9
"""Nanoseconds. A folder that changed later than that may change again without another time: some file systems count in steps of two seconds."""
_MOST_KEPT = 50_000
"""Folders whose entries are kept, the latest that were read: one that is gone may never be looked at again."""


class Entries(NamedTuple):
    """What lies in one folder, sorted; a link counts as what it leads to, and one that leads nowhere is left out. ``identity`` tells a folder from others."""

    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    identity: tuple[int, int] = (0, 0)


class _Read(NamedTuple):
    changed: int
    folders: tuple[str, ...]
    files: tuple[str, ...]
    links: tuple[str, ...]


_kept: OrderedDict[str, _Read] = OrderedDict()
_warned: set[str] = set()


def entries(folder: str | Path) -> Entries:
    """What lies in a folder; nothing where it is missing or cannot be read."""
    path = str(folder)
    try:
        status = os.stat(path)
        read = _kept.get(path)
        if read is None or read.changed != status.st_mtime_ns:
            read = _scan(path, status.st_mtime_ns)
    except FileNotFoundError:
        _kept.pop(path, None)
        return Entries()
    except (OSError, ValueError) as error:
        warn_once(path, f"folder {path} cannot be read ({error}). What lies in it is not offered.")
        return Entries()
    _warned.discard(path)
    identity = (status.st_dev, status.st_ino)
    if not read.links:
        return Entries(read.folders, read.files, identity)
    # Where a link leads may change without the folder's time.
    folders = [name for name in read.links if os.path.isdir(os.path.join(path, name))]
    files = [name for name in read.links if os.path.isfile(os.path.join(path, name))]
    return Entries(tuple(sorted([*read.folders, *folders])), tuple(sorted([*read.files, *files])), identity)


def walk(folder: str | Path, depth: int) -> Iterator[tuple[str, Entries]]:
    """The folder itself, named ``""``, and every folder down to ``depth`` levels below it, by its path with slashes. Links are followed, but never back into a
    folder that they lie in; folders with a dot in front are passed over."""
    yield from _walk(str(folder), "", depth, ())


def files_below(folder: str | Path, suffix: str, depth: int = 8) -> list[str]:
    """Every file of a kind in a folder and below it, by its path with slashes. Names that no input can carry are left out."""
    paths = (
        f"{name}/{file}" if name else file
        for name, found in walk(folder, depth)
        for file in found.files
        if file.endswith(suffix)
    )
    return sorted(filter(is_usable, paths))


def warn_once(about: str, message: str) -> None:
    """A warning in the log, the first time that there is one about this."""
    if about not in _warned:
        _warned.add(about)
        logging.warning("InstructBrush: %s", message)


def _scan(path: str, changed: int) -> _Read:
    begun = time.time_ns()
    kinds: dict[str, list[str]] = {"folder": [], "file": [], "link": []}
    with os.scandir(path) as found:
        for entry in found:
            kinds[_kind(entry)].append(entry.name)
    read = _Read(changed, *(tuple(sorted(kinds[kind])) for kind in ("folder", "file", "link")))
    if begun - changed > _SETTLED:
        _kept[path] = read
        if len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    return read


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file"
    except OSError:
        return "file"


def _walk(
    folder: str, name: str, depth: int, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, Entries]]:
    found = entries(folder)
    if found.identity in above:
        return
    yield name, found
    if depth:
        for child in found.folders:
            if not child.startswith("."):
                yield from _walk(
                    os.path.join(folder, child),
                    f"{name}/{child}" if name else child,
                    depth - 1,
                    (*above, found.identity),
                )
