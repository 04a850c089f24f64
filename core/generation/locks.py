"""Locks of files between processes."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import BuildError
from ..storage.files import write_error

BUILD_LOCK = ".build.lock"
"""Name of the file that marks the folder of a running build."""


@contextlib.contextmanager
def locked(file: Path, seconds: float = -1) -> Iterator[None]:
    """Holds a lock, so that other processes wait. Creates its folder.

    Args:
        file: the lock's file; it stays.
        seconds: how long to wait for the lock; a negative number waits for ever.

    Raises:
        OSError: the file cannot be written, the disk has no locks, or another process holds the lock
            (``TimeoutError``).
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=seconds)
    try:
        lock.acquire()
    except NotImplementedError as error:  # older versions of filelock
        raise OSError(errno.ENOLCK, "the disk has no locks of files") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Keeps other processes from running a build in the same folder.

    Raises:
        BuildError: another process runs one.
        StorageError: the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / BUILD_LOCK, 0))
        except Timeout as error:
            raise BuildError(
                f"'{folder}' is in use: another process runs this build. Wait until it ends, or stop it, and "
                "run the command again."
            ) from error
        except OSError as error:
            # Without locks nothing protects the folder, but one process alone needs no protection.
            if error.errno != errno.ENOLCK:
                raise write_error(folder / BUILD_LOCK, error) from error
        yield
