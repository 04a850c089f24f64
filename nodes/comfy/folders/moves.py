"""Moves files of the user without overwriting any, also to another disk."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ....core.errors import StorageError
from ....core.storage.files import atomic_write, write_error


def move(source: Path, target: Path) -> None:
    """Moves a file, and makes the folder of its target.

    Raises:
        FileExistsError: the target exists.
        StorageError: it cannot be written, or the source cannot be removed. The source is as it was then.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # also FileExistsError: a file has the folder's name
        raise write_error(target, error) from error
    try:
        # A link fails if the target exists; a rename would replace it on most systems.
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"'{source.name}' is gone from {source.parent}. Refresh the list.") from error
    except (OSError, NotImplementedError):
        _move_without_links(source, target)
    else:
        _unlink(source, target)


def move_to_free(source: Path, target: Path) -> Path:
    """Moves a file to ``target``, or to the first numbered name that is free, e.g. ``snow_2.safetensors``.

    Returns:
        The path it has now.

    Raises:
        StorageError: see ``move``.
    """
    number = 1
    candidate = target
    while True:
        try:
            move(source, candidate)
        except FileExistsError:
            number += 1
            candidate = target.with_stem(f"{target.stem}_{number}")
        else:
            return candidate


def _move_without_links(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise write_error(target, error) from error
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
        _unlink(source, target)


def _unlink(source: Path, target: Path) -> None:
    try:
        source.unlink()
    except OSError as error:
        with suppress(OSError):
            target.unlink()
        raise StorageError(
            f"'{source.name}' cannot be moved out of {source.parent}: {error.strerror}. Check that the "
            "folder is writable."
        ) from error
