"""Moves files of the user without overwriting any, also to another disk."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ....core.errors import StorageError
from ....core.storage.files import atomic_write, write_error
from ....core.windows import is_windows, patiently


def move(source: Path, target: Path) -> None:
    """Moves a file, and makes the folder of its target. A link goes on pointing to the same file.

    Raises:
        FileExistsError: the target exists.
        StorageError: it cannot be written, or the source cannot be removed. The source is as it was then.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # also FileExistsError: a file has the folder's name
        raise write_error(target, error) from error
    linked = _relative_link(source)
    if linked is not None:
        _move_link(source, target, linked)
        return
    if is_windows():
        _move_on_windows(source, target)
        return
    try:
        # A link fails if the target exists; a rename would replace it on most systems.
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        raise _gone(source) from error
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


def _relative_link(path: Path) -> Path | None:
    """Returns where a relative link points, as an absolute path; None for all other files."""
    try:
        link = os.readlink(path)
    except (OSError, NotImplementedError):
        return None
    # Not normalized: the folders of the path may be links, too.
    return None if os.path.isabs(link) else Path(os.path.realpath(path.parent), link)


def _move_link(source: Path, target: Path, linked: Path) -> None:
    try:
        os.symlink(linked, target)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError) as error:  # Windows may allow no links
        raise write_error(target, error) from error
    _unlink(source, target)


def _move_on_windows(source: Path, target: Path) -> None:
    """A rename fails there if the target exists. A link could stay if the source is open and cannot go."""
    try:
        patiently(lambda: os.rename(source, target))
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        raise _gone(source) from error
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise _stays(source, error) from error
        _copy_to_another_disk(source, target)


def _move_without_links(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise write_error(target, error) from error
        _copy_to_another_disk(source, target)


def _copy_to_another_disk(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
    _unlink(source, target)


def _unlink(source: Path, target: Path) -> None:
    try:
        patiently(source.unlink)
    except OSError as error:
        with suppress(OSError):
            target.unlink()
        raise _stays(source, error) from error


def _gone(source: Path) -> StorageError:
    return StorageError(f"'{source.name}' is gone from {source.parent}. Refresh the list.")


def _stays(source: Path, error: OSError) -> StorageError:
    return StorageError(
        f"'{source.name}' cannot be moved out of {source.parent}: {error.strerror}. Check that the "
        "folder is writable and no other program has the file open."
    )
