"""Atomic writing of files: after a crash, a full disk or a cancelled run the old file is still intact."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ..errors import InstructBrushError, StorageError
from ..windows import is_windows, patiently

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIX = ".part"
_LOCK = "lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Windows' own numbers: a full disk or quota, a name or path that is too long, a folder that is missing or too
# deep, and the length of a path that leaves room for a folder of ``atomic_write``.
_FULL_ON_WINDOWS = (39, 112, 1295)
_NAME_TOO_LONG = 206
_NO_PATH = 3
_MOST_ON_WINDOWS = 225
# Read once: between the two calls the process has another one.
_UMASK = os.umask(0)
os.umask(_UMASK)


def read_file(path: Path, most: int) -> bytes:
    """Reads a file from elsewhere. Links are followed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a device or pipe, which may never end, or larger than ``most`` bytes.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no plain file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return content


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives the block the path of a file to write, in a new folder beside ``path``.

    When the block ends, the file replaces ``path``; when the block raises, it is removed. What earlier
    processes left that were killed is removed as well. The block may replace its file by another one, as
    safetensors does.

    Raises:
        StorageError: the folder cannot be created, or the file cannot be written (no space, no permission,
            missing folder).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A hash: short enough for every valid name, and the same for what a killed process left.
        prefix = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}."
        _remove_abandoned(path.parent, prefix)
        folder = _new_folder(path.parent, prefix)
    except OSError as error:
        raise write_error(path, error) from error
    temporary = folder / "new"
    handle = -1
    try:
        handle = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR)
        _lock(handle)
        yield temporary
        _flush(temporary)
        # Some writers create files for the owner only, but models are shared. Some file systems lack
        # permissions.
        with contextlib.suppress(OSError):
            temporary.chmod(0o666 & ~_UMASK)
        patiently(lambda: temporary.replace(path))
    except (OSError, SafetensorError) as error:
        raise write_error(path, error) from error
    finally:
        if handle >= 0:
            os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def is_ignored(path: Path) -> bool:
    """Whether something in a folder does not count as its content: a folder of ``atomic_write``, in use or
    left by a killed process, or a file that the system keeps there."""
    unfinished = path.name.startswith(".") and path.name.endswith(_SUFFIX)
    return unfinished or path.name.lower() in (".ds_store", "desktop.ini", "thumbs.db")


def remove(path: Path) -> None:
    """Removes a file if it is there.

    Raises:
        StorageError: it cannot be removed.
    """
    try:
        patiently(lambda: path.unlink(missing_ok=True))
    except OSError as error:
        raise StorageError(
            f"'{path.name}' cannot be removed from {path.parent}: {error.strerror}. Close what has it open."
        ) from error


def write_tensors(tensors: "Mapping[str, Tensor]", path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file atomically.

    Raises:
        StorageError: see ``atomic_write``.
    """
    # Imported here so that this module does not load torch.
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        save_file(dict(tensors), temporary, dict(metadata))
        _sort_metadata(temporary)


def read_tensor(file: Any, name: str) -> "Tensor":
    """Copies a tensor out of an open safetensors file.

    A tensor that is not copied keeps the file mapped, and Windows neither replaces nor deletes such a file.
    """
    return file.get_tensor(name).clone()


def write_text(text: str, path: Path) -> None:
    """Writes a UTF-8 text file with line feeds, atomically.

    Raises:
        StorageError: see ``atomic_write``.
    """
    with atomic_write(path) as temporary:
        # File names may hold bytes that are not valid text; those are written as escapes.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def append_text(text: str, path: Path) -> None:
    """Appends to a UTF-8 text file, completely or not at all.

    Raises:
        StorageError: the file cannot be written (no space, no permission); it is as it was.
    """
    try:
        with path.open("ab", buffering=0) as file:
            end = file.tell()
            left = text.encode()
            try:
                while left:
                    left = left[file.write(left) :]
                _sync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), end)
                raise
    except OSError as error:
        raise write_error(path, error) from error


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Gives a new folder to write into. At the end it takes the place of ``folder``, whole or not at all.

    Raises:
        StorageError: it cannot be written. An older folder stays as it is.
    """
    unfinished, older = (folder.with_name(f".{folder.name}.{ending}") for ending in ("part", "older"))
    try:
        if older.is_dir() and not folder.exists():  # a process was killed between the two renames below
            older.replace(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        shutil.rmtree(older, ignore_errors=True)
        if folder.exists():
            patiently(lambda: folder.replace(older))
        try:
            patiently(lambda: unfinished.replace(folder))
        except OSError:
            if older.exists():
                older.replace(folder)
            raise
        shutil.rmtree(older, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_elsewhere(name: str, write: Callable[[Path], object]) -> Path | None:
    """Saves a result in a new temporary folder, for use when its proper place cannot be written.

    Args:
        name: name of the file or folder to create.
        write: writes the result to a path.

    Returns:
        The path of the result, or None if this fails too.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="instructbrush-"))
    except OSError:
        return None
    try:
        write(folder / name)
    except (OSError, InstructBrushError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / name


def check_writable(path: Path, size: int = 0) -> None:
    """Checks before a long run that a file of ``size`` bytes can be written. Creates its folder.

    Raises:
        StorageError: the folder is not writable or has too little space, or a folder has this name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = _new_folder(path.parent, ".probe.")
        try:
            (folder / "new").write_bytes(b" ")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise write_error(path, error) from error
    if path.is_dir():
        raise StorageError(
            f"'{path.name}' cannot be written to {path.parent}: a folder has this name. Choose another name."
        )
    free = _free_space(path.parent)
    if free is not None and free < size:
        raise StorageError(
            f"'{path.name}' needs about {_megabytes(size)} in {path.parent}, "
            f"where {_megabytes(free)} are free. Free some space, or choose another disk."
        )


def write_error(path: Path, error: Exception) -> StorageError:
    """Returns the error that tells the user why ``path`` was not written."""
    number = getattr(error, "errno", None)
    windows = getattr(error, "winerror", None)
    text = getattr(error, "strerror", None) or str(error)
    # SafetensorError has no errno, but its text contains the system's message.
    numbers = _FULL_ON_WINDOWS if is_windows() else _FULL
    if number in _FULL or any(f"os error {each})" in text for each in numbers):
        return StorageError(
            f"'{path.name}' cannot be written to {path.parent}: no space is left there. "
            "Free some space, or choose another disk."
        )
    too_long = windows == _NAME_TOO_LONG or (windows == _NO_PATH and len(str(path)) > _MOST_ON_WINDOWS)
    if number == errno.ENAMETOOLONG or too_long:
        what = "path" if too_long else "name"
        return StorageError(
            f"'{path.name[:40]}…' cannot be written: its {what} is too long. Choose a shorter name."
        )
    return StorageError(
        f"'{path.name}' cannot be written to {path.parent}: {text}. "
        "Check that the folder exists and is writable."
    )


def _sort_metadata(path: Path) -> None:
    """Makes equal contents equal files: safetensors writes the keys of the metadata in a random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(raw) <= length:
            file.seek(8)
            file.write(raw.ljust(length))


def _flush(path: Path) -> None:
    """Flushes a finished file to disk. Ignores that a virus scanner may hold it for a moment."""
    try:
        written = path.open("r+b")  # Windows flushes only what may be written
    except OSError:
        return
    with written:
        _sync(written.fileno())


def _sync(handle: int) -> None:
    """Flushes an open file to disk. Ignores that some network folders do not support fsync."""
    try:
        os.fsync(handle)
    except OSError as error:
        # File systems that allocate late report a full disk here.
        if error.errno in (*_FULL, errno.EIO):
            raise


def _free_space(folder: Path) -> int | None:
    """Free bytes, or None if unknown: some network and cloud folders raise or report a size of 0."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _new_folder(parent: Path, prefix: str) -> Path:
    # Python's tempfile would let only the owner read on Windows, also what leaves the folder, and would try
    # for ever where nothing can be written.
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}{_SUFFIX}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Removes folders of ``atomic_write`` that no process has locked any more."""
    try:
        names = os.listdir(folder)
    except OSError:  # a writable folder may be unreadable
        return
    for name in [name for name in names if name.startswith(prefix) and name.endswith(_SUFFIX)]:
        lock = folder / name / _LOCK
        with contextlib.suppress(OSError):
            handle = os.open(lock, os.O_RDWR)
            try:
                free = _lock(handle)
            finally:
                os.close(handle)
            if free:
                lock.unlink()  # fails on Windows while a writer has it open
                shutil.rmtree(lock.parent, ignore_errors=True)


def _lock(handle: int) -> bool:
    """Locks an open file until it is closed, so that other processes do not remove it.

    Returns:
        Whether the lock was taken; False if another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return False
    return True
