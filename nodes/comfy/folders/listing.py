"""Lists the user's folders, with a cache.

Nothing here raises. What cannot be read is left out, with one warning in the log. A changed folder is read
again.
"""

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ....core.storage.names import is_usable
from ....core.windows import is_windows

# A folder that changed less than two seconds ago is not cached: some file systems store times in steps of two
# seconds, so it may change again without a new time.
_SETTLED_NS = 2 * 10**9
_TRUSTED_SECONDS = 1.0
# The oldest entries are dropped, because deleted folders would stay forever.
_MOST_CACHED = 50_000


class Entries(NamedTuple):
    """The sorted contents of one folder. Links count as their targets; broken links are left out."""

    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    identity: tuple[int, int] = (0, 0)
    """Device and inode of the folder."""


class _Read(NamedTuple):
    """A cached folder. ``changed`` is its modification time in nanoseconds."""

    changed: int
    folders: tuple[str, ...]
    files: tuple[str, ...]
    links: tuple[str, ...]
    at: float = 0.0
    """When it was read, on time.monotonic()'s clock."""


_cache: OrderedDict[str, _Read] = OrderedDict()
_warned: set[str] = set()


def entries(folder: str | Path) -> Entries:
    """Returns the contents of a folder; empty if it is missing or unreadable."""
    path = str(folder)
    try:
        status = os.stat(path)
        read = _cache.get(path)
        if read is None or read.changed != status.st_mtime_ns or _may_be_old(read):
            read = _scan(path, status.st_mtime_ns)
    except FileNotFoundError:
        _cache.pop(path, None)
        return Entries()
    except (OSError, ValueError) as error:
        warn_once(path, f"folder {path} cannot be read ({error}). Its files are not listed.")
        return Entries()
    _warned.discard(path)
    identity = (status.st_dev, status.st_ino)
    if not read.links:
        return Entries(read.folders, read.files, identity)
    # The target of a link may change without a change of the folder's time.
    folders = [name for name in read.links if os.path.isdir(os.path.join(path, name))]
    files = [name for name in read.links if os.path.isfile(os.path.join(path, name))]
    return Entries(tuple(sorted([*read.folders, *folders])), tuple(sorted([*read.files, *files])), identity)


def walk(folder: str | Path, depth: int) -> Iterator[tuple[str, Entries]]:
    """Yields (path, contents) of the folder, whose path is ``""``, and of the folders below it.

    Goes ``depth`` levels down. Paths use slashes. Follows links, but never back into a folder that contains
    them. Skips folders whose names start with a dot.
    """
    yield from _walk(str(folder), "", depth, ())


def files_below(folder: str | Path, suffix: str, depth: int = 8) -> list[str]:
    """Returns the paths, with slashes, of all files with a suffix whose names an input can carry."""
    paths = (
        f"{name}/{file}" if name else file
        for name, found in walk(folder, depth)
        for file in found.files
        if file.endswith(suffix)
    )
    return sorted(filter(is_usable, paths))


def warn_once(about: str, message: str) -> None:
    """Logs a warning, unless there was one ``about`` the same thing."""
    if about not in _warned:
        _warned.add(about)
        logging.warning("InstructBrush: %s", message)


def _scan(path: str, changed: int) -> _Read:
    started = time.time_ns()
    kinds: dict[str, list[str]] = {"folder": [], "file": [], "link": []}
    with os.scandir(path) as scan:
        for entry in scan:
            if not entry.name.startswith("._"):  # what macOS keeps beside each file on other disks
                kinds[_kind(entry)].append(entry.name)
    folders = tuple(sorted(kinds["folder"]))
    files = tuple(sorted(kinds["file"]))
    links = tuple(sorted(kinds["link"]))
    read = _Read(changed, folders, files, links, time.monotonic())
    if started - changed > _SETTLED_NS:
        _cache[path] = read
        if len(_cache) > _MOST_CACHED:
            _cache.popitem(last=False)
    return read


def _may_be_old(read: _Read) -> bool:
    # On Windows, exFAT and FAT keep a folder's time when its files change.
    return is_windows() and time.monotonic() - read.at > _TRUSTED_SECONDS


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_symlink():
            return "link"
        return "folder" if entry.is_dir() else "file"
    except OSError:
        return "file"


def _walk(
    folder: str, name: str, depth: int, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, Entries]]:
    found = entries(folder)
    if found.identity[1] and found.identity in above:  # some file systems number nothing
        return
    yield name, found
    if depth:
        for child in found.folders:
            if not child.startswith("."):
                path = f"{name}/{child}" if name else child
                yield from _walk(os.path.join(folder, child), path, depth - 1, (*above, found.identity))
