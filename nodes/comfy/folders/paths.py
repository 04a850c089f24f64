"""Paths in a ComfyUI installation, by names that cannot leave their folders."""

import hashlib
import os
from pathlib import Path

import folder_paths

from ....core.errors import EvaluationError, InstructionError, PairError
from ....core.pairs.layouts import LISTS, PROMPT, sides_among
from ....core.pairs.table_images import ENDING
from ....core.storage.image_files import IMAGES
from ....core.storage.names import is_usable, resolve_inside
from . import examples, listing, model_folders
from .model_folders import SUFFIX

INSTRUCTIONS = "instructions"
UNFINISHED = "unfinished"
CHECKPOINT = ".checkpoint"
TRASH = "trash"
STUDIES = "instructbrush_studies"
_DEPTH = 4
_STATE_DEPTH = 8


def register() -> None:
    """Registers the folders of instructions, and the examples."""
    model_folders.register(INSTRUCTIONS, output_instructions())
    examples.register()


def output_instructions() -> Path:
    """Returns the folder of Save Instruction."""
    return Path(folder_paths.get_output_directory()) / INSTRUCTIONS


def shown_output(path: Path) -> str:
    """Returns a file of the output folder as people know it: ``output/instructions/snow.safetensors``."""
    return path.relative_to(Path(folder_paths.get_output_directory()).parent).as_posix()


def unfinished() -> Path:
    """Returns the folder for checkpoints and results of cancelled learning runs."""
    return output_instructions() / UNFINISHED


def saved_steps() -> Path:
    """Returns the folder for the instructions of single learning steps."""
    return output_instructions() / "steps"


def trash() -> Path:
    """Returns the folder for instructions that the gallery removed."""
    return output_instructions() / TRASH


def instruction_names() -> list[str]:
    """Returns all instruction files but those in the trash, by their paths inside their folders."""
    return [name for name in model_folders.files(INSTRUCTIONS) if not name.startswith(f"{TRASH}/")]


def instruction_path(name: str) -> Path:
    """Returns the file of one of ``instruction_names``.

    Raises:
        InstructionError: it does not exist, or the name leaves its folder.
    """
    path = model_folders.file_of(INSTRUCTIONS, name, InstructionError)
    if path is None:
        raise InstructionError(
            f"Instruction '{name}' was not found in models/{INSTRUCTIONS} or output/{INSTRUCTIONS}. Refresh "
            "the list (key R) and choose from it."
        )
    return path


def new_instruction_path(name: str, root: Path | None = None) -> Path:
    """Returns the path to save an instruction under.

    Args:
        name: with sub-folders, with or without suffix.
        root: one of the folders of instructions; that of Save Instruction by default.

    Raises:
        InstructionError: the name is empty, leaves the folder, or is in the trash or among unfinished runs.
    """
    root = root or output_instructions()
    path = resolve_inside(root, name, SUFFIX, new=True)
    first = path.relative_to(root).parts[0]
    # Some file systems take Trash for trash.
    if first.casefold() in (TRASH, UNFINISHED):
        raise InstructionError(f"The folder '{first}' has its own use. Choose another name.")
    return path


def study_folder(name: str) -> Path:
    """Returns the folder of a preference study, ``output/instructbrush_studies/<name>``.

    Raises:
        EvaluationError: the name is empty or leaves the folder.
    """
    return resolve_inside(output_studies(), name, new=True, error=EvaluationError)


def output_studies() -> Path:
    """Returns the folder of Judge Preference."""
    return Path(folder_paths.get_output_directory()) / STUDIES


def free_path(path: Path) -> Path:
    """Returns ``path``, or with the first number that is not taken, e.g. ``snow_2.safetensors``."""
    number = 1
    candidate = path
    while os.path.exists(candidate):
        number += 1
        candidate = path.with_stem(f"{path.stem}_{number}")
    return candidate


def pairs_folders() -> list[str]:
    """Returns the folders under ``input/`` that look like pairs, then the pack's examples.

    Such a folder holds images, two folders such as ``before`` and ``after``, a list, or parquet tables.
    """
    root = folder_paths.get_input_directory()
    if not os.path.isdir(root):
        listing.warn_once(
            root,
            f"ComfyUI's input folder {root} does not exist. Load Edit Pairs lists only the pack's examples.",
        )
    return sorted(filter(is_usable, _candidates(root))) + examples.pairs_folders()


def pairs_path(name: str) -> Path:
    """Returns the folder of one of ``pairs_folders``, or any other folder under ``input/``.

    Raises:
        PairError: it does not exist, or the name leaves ``input/``.
    """
    example = examples.pairs_path(name)
    if example:
        return example
    folder = resolve_inside(folder_paths.get_input_directory(), name, error=PairError)
    if not os.path.isdir(folder):
        raise PairError(
            f"Pairs folder '{name}' does not exist in ComfyUI's input folder. Copy the folder there and "
            "refresh the list (key R)."
        )
    return folder


def new_pairs_path(name: str) -> Path:
    """Returns the folder under ``input/`` to save new pairs in, with a number if the name is taken.

    Raises:
        PairError: the name is empty or leaves the folder.
    """
    return free_path(resolve_inside(folder_paths.get_input_directory(), name, new=True, error=PairError))


def folder_state(folder: Path) -> str:
    """Returns a text that changes when a file in the folder changes. Ignores what cannot be read."""
    state = hashlib.sha256()
    for name, found in listing.walk(folder, _STATE_DEPTH):
        for file in found.files:
            path = os.path.join(folder, name, file)
            state.update(f"{name}/{file} {_size_and_time(path)}\n".encode(errors="surrogateescape"))
    return state.hexdigest()


def pairs_trash() -> Path:
    """Returns the folder for masks of pairs that were replaced."""
    return Path(folder_paths.get_output_directory()) / "instructbrush_trash" / "pairs"


def file_state(path: Path) -> str:
    """Returns a text that changes when the file changes."""
    return f"{path} {_size_and_time(path)}"


def state_of(path: Path) -> str:
    """``folder_state`` or ``file_state``."""
    return folder_state(path) if path.is_dir() else file_state(path)


def _size_and_time(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _candidates(root: str) -> set[str]:
    names: set[str] = set()
    pairs_layouts: set[str] = set()
    for name, found in listing.walk(root, _DEPTH):
        above = name.rpartition("/")[0]
        if above in pairs_layouts:  # its images are one side of pairs
            pairs_layouts.add(name)
        elif name and sides_among(found.folders):
            pairs_layouts.add(name)
            names.add(name)
        elif name and PROMPT in found.files:  # InstructPix2Pix's data has a folder for every few pairs
            names.add(above or name)
        elif name and any(_is_pairs_file(file) for file in found.files):
            names.add(name)
    return names


def _is_pairs_file(name: str) -> bool:
    return name in LISTS or os.path.splitext(name)[1].lower() in IMAGES or name.endswith(ENDING)
