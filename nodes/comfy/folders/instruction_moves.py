"""Renames instruction files, and moves them to the trash and back. Nothing is overwritten or lost."""

import os
from pathlib import Path

from ....core.errors import InstructionError, StorageError
from ....core.storage.files import write_error
from . import instruction_cards, listing, model_folders, paths
from .model_folders import SUFFIX
from .moves import move, move_to_free

_TRASH_DEPTH = 8
# Trashed file -> where it was. A file of an earlier session goes back to output/instructions.
_origins: dict[str, Path] = {}


def rename(name: str, new_name: str) -> str:
    """Renames the file of a card, inside its folder.

    Args:
        name: of a card.
        new_name: as Save Instruction takes it; with sub-folders, with or without suffix.

    Returns:
        Its new name.

    Raises:
        InstructionError: the gallery does not list the name, or the new one is invalid or taken.
        StorageError: the folder is not writable.
    """
    path = _changeable(name)
    root = _root_of(path)
    target = paths.new_instruction_path(new_name, root)
    renamed = target.relative_to(root).as_posix()
    if renamed == name:
        return name
    found = model_folders.file_of(paths.INSTRUCTIONS, renamed, InstructionError)
    if found is None:
        _move(path, target)
    elif renamed.lower() == name.lower() and os.path.samefile(found, path):
        # Only the case of letters changes, on a file system that does not tell them apart.
        try:
            os.rename(path, target)
        except OSError as error:
            raise write_error(target, error) from error
    else:
        raise _taken(renamed)
    return renamed


def to_trash(name: str) -> list[str]:
    """Moves the file of a card, or both files of an unfinished run, to ``output/instructions/trash``.

    Args:
        name: of a card; ``unfinished/<stem>.safetensors`` for a run, even if it has no such file.

    Returns:
        The files' names in the trash, for ``restore``.

    Raises:
        InstructionError: the gallery does not list the name, or the file is one of the pack's examples.
        StorageError: a folder is not writable.
    """
    moved: list[str] = []
    for path, inside in _files_of(name):
        try:
            target = move_to_free(path, paths.trash() / inside)
        except StorageError:
            restore(moved)
            raise
        trashed = target.relative_to(paths.trash()).as_posix()
        _origins[trashed] = path
        moved.append(trashed)
    return moved


def restore(trashed: list[str]) -> None:
    """Moves files back from the trash.

    Raises:
        InstructionError: a name is not in the trash, or the place is taken meanwhile.
        StorageError: a folder is not writable.
    """
    there = listing.files_below(paths.trash(), "", _TRASH_DEPTH)
    for name in trashed:
        if name not in there:
            raise InstructionError(
                "The file is not in the trash any more (output/instructions/trash), so it cannot be put back."
            )
        if os.path.lexists(_origin(name)):
            raise InstructionError(
                f"'{_origin(name).stem}' exists again, so the other one stays in output/instructions/trash. "
                "Rename the new one first."
            )
    for name in trashed:
        _move(paths.trash() / name, _origin(name))
        _origins.pop(name, None)


def _origin(name: str) -> Path:
    return _origins.get(name, paths.output_instructions() / name)


def _changeable(name: str) -> Path:
    path = instruction_cards.listed_path(name)
    if not instruction_cards.can_change(path):
        raise InstructionError("This instruction is an example of the pack; it cannot be changed.")
    return path


def _files_of(name: str) -> list[tuple[Path, str]]:
    """(path, path in the trash) of every file that belongs to a name."""
    folder, _, file = name.partition("/")
    stem = file.removesuffix(SUFFIX)
    if folder == paths.UNFINISHED and stem in instruction_cards.unfinished_names():
        found = [f"{stem}{suffix}" for suffix in (SUFFIX, paths.CHECKPOINT)]
        at = paths.unfinished()
        return [(at / each, f"{folder}/{each}") for each in found if os.path.isfile(at / each)]
    return [(_changeable(name), name)]


def _root_of(path: Path) -> Path:
    return next(root for root in model_folders.folders_of(paths.INSTRUCTIONS) if root in path.parents)


def _move(source: Path, target: Path) -> None:
    """As ``move``, but an existing target raises an ``InstructionError``."""
    try:
        move(source, target)
    except FileExistsError as error:
        raise _taken(target.name) from error


def _taken(name: str) -> InstructionError:
    return InstructionError(f"'{name.removesuffix(SUFFIX)}' exists already. Choose another name.")
