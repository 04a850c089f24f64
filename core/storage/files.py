"""Files that are written whole or not at all: a crash, a full disk or a cancelled run leaves the older file as it was."""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import StorageError

_SUFFIX = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, a quota that is used up, and a limit on the size of files."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, for the block to write. It takes the place of ``path`` when the block ends, and is removed when it raises.

    What an earlier process left there when it was killed is removed as well.

    Raises:
        StorageError: the folder cannot be made, or the file cannot be written: no space, no permission, a folder that is gone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Short, so that every name that fits can be written; and told by the name, so that what a killed process left is found.
        prefix = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}."
        _remove_abandoned(path.parent, prefix)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=_SUFFIX)
    except OSError as error:
        raise not_written(path, error) from error
    temporary = Path(name)
    try:
        _lock(handle)
        yield temporary
        _flush(temporary)
        with contextlib.suppress(OSError):  # and some no permissions
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files for the owner alone; models are shared
        # Windows renames no file that is open.
        os.close(handle)
        handle = -1
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from error
    finally:
        if handle >= 0:
            os.close(handle)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """Whether a file is one of :func:`replacing`'s, on its way or left by a process that was killed."""
    return path.name.startswith(".") and path.name.endswith(_SUFFIX)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        StorageError: as :func:`replacing`.
    """
    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, dict(metadata))


def write_text(text: str, path: Path) -> None:
    """Write a text file, in UTF-8 with line feeds.

    Raises:
        StorageError: as :func:`replacing`.
    """
    with replacing(path) as temporary:
        # Names of files that are no text are written with their bytes as numbers.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_elsewhere(name: str, write: Callable[[Path], object]) -> Path | None:
    """Write what could not be written where it belongs into a new temporary folder.

    Args:
        name: of the file or folder there.
        write: writes it to a path.

    Returns:
        Where it is now; None where that failed as well.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="instructbrush-"))
    except OSError:
        return None
    try:
        write(folder / name)
    except (OSError, StorageError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return folder / name


def check_target(path: Path, size: int = 0) -> None:
    """See, before any work is done, that a file can be written: its folder, which is made, takes files and has room for ``size`` bytes.

    Raises:
        StorageError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b" ")
    except OSError as error:
        raise not_written(path, error) from error
    if path.is_dir():
        raise StorageError(
            f"'{path.name}' cannot be written to {path.parent}: a folder has this name. Choose another name."
        )
    free = _free_space(path.parent)
    if free is not None and free < size:
        raise StorageError(
            f"'{path.name}' needs about {_megabytes(size)} in {path.parent}, where {_megabytes(free)} are free. Free some space, or choose another disk."
        )


def not_written(path: Path, error: Exception) -> StorageError:
    """The error that tells a user why ``path`` was not written."""
    number = getattr(error, "errno", None)
    text = getattr(error, "strerror", None) or str(error)
    # safetensors' own error has no number, but its text is the system's.
    if number in _FULL or any(f"os error {each})" in text for each in _FULL):
        return StorageError(
            f"'{path.name}' cannot be written to {path.parent}: no space is left there. Free some space, or choose another disk."
        )
    if number == errno.ENAMETOOLONG:
        return StorageError(
            f"'{path.name[:40]}…' cannot be written: its name is too long. Choose a shorter name."
        )
    return StorageError(
        f"'{path.name}' cannot be written to {path.parent}: {text}. Check that the folder is there and may be written to."
    )


def _flush(path: Path) -> None:
    """Bring a file to the disk, as far as the disk can be told to: some shared folders know no fsync."""
    try:
        with path.open("rb") as written:
            os.fsync(written.fileno())
    except OSError as error:
        # Where space is given out late, its lack shows here.
        if error.errno in (*_FULL, errno.EIO):
            raise


def _free_space(folder: Path) -> int | None:
    """Bytes; None where a disk does not say: some shared folders and clouds refuse to, or say that they have no size at all."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove unfinished files that no process writes any more: a writer keeps its file open and locked."""
    try:
        names = os.listdir(folder)
    except OSError:  # a folder that takes files need not show them
        return
    # Folders of results grow long, and each write looks here.
    for name in [name for name in names if name.startswith(prefix) and name.endswith(_SUFFIX)]:
        path = folder / name
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR)
            try:
                free = _lock(handle)
            finally:
                os.close(handle)
            if free:
                path.unlink()  # Windows refuses this while a writer has it open


def _lock(handle: int) -> bool:
    """Lock an open file against :func:`_remove_abandoned` of other processes until it is closed; False where another process has it."""
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
