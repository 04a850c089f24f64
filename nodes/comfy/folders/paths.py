"""Where things lie in a ComfyUI installation, by names that cannot leave their folders."""

import hashlib
import os
from pathlib import Path

import folder_paths

from ....core.errors import EvaluationError, InstructionError, PairError
from ....core.pairs.layouts import LISTS, PROMPT, sides_among
from ....core.storage.image_files import IMAGES
from ....core.storage.names import is_usable, resolve_inside
from . import examples, listing, model_folders
from .model_folders import SUFFIX

INSTRUCTIONS = "instructions"
STUDIES = "instructbrush_studies"
_DEPTH = 4
_STATE_DEPTH = 8


def register() -> None:
    """Make ``models/instructions`` and ``output/instructions`` one kind of model folder, as ComfyUI's other models have theirs."""
    model_folders.register(INSTRUCTIONS, output_instructions())
    examples.register()


def output_instructions() -> Path:
    """Where Save Instruction writes."""
    return Path(folder_paths.get_output_directory()) / INSTRUCTIONS


def unfinished() -> Path:
    """Where a learning run that was cancelled leaves what it learned, and its checkpoint."""
    return output_instructions() / "unfinished"


def instruction_names() -> list[str]:
    """Every instruction file, by its path inside its folder."""
    return model_folders.files(INSTRUCTIONS)


def instruction_path(name: str) -> Path:
    """The file of one of :func:`instruction_names`.

    Raises:
        InstructionError: there is none of that name, or the name leaves its folder.
    """
    path = model_folders.file_of(INSTRUCTIONS, name, InstructionError)
    if path is None:
        raise InstructionError(
            f"Instruction '{name}' was not found in models/{INSTRUCTIONS} or output/{INSTRUCTIONS}. Refresh the list (key R) and choose one of it."
        )
    return path


def new_instruction_path(name: str) -> Path:
    """Where an instruction of this name is saved.

    Raises:
        InstructionError: the name is empty or leaves the folder.
    """
    return resolve_inside(output_instructions(), name, SUFFIX, new=True)


def study_folder(name: str) -> Path:
    """Where the study of preference of this name is kept: ``output/instructbrush_studies/<name>``.

    Raises:
        EvaluationError: the name is empty or leaves the folder.
    """
    return resolve_inside(output_studies(), name, new=True, error=EvaluationError)


def output_studies() -> Path:
    """Where Judge Preference writes."""
    return Path(folder_paths.get_output_directory()) / STUDIES


def free_path(path: Path) -> Path:
    """``path`` itself, or with the first number that makes it new: ``snow_2.safetensors``."""
    candidates = (
        path if number == 1 else path.with_stem(f"{path.stem}_{number}") for number in range(1, 1_000_000)
    )
    return next(candidate for candidate in candidates if not os.path.exists(candidate))


def pairs_folders() -> list[str]:
    """Folders under ``input/`` that look like pairs (with images, two folders such as ``before`` and ``after``, or a list), then the pack's examples."""
    root = folder_paths.get_input_directory()
    if not os.path.isdir(root):
        listing.warn_once(
            root,
            f"ComfyUI's input folder {root} is not there. Load Edit Pairs offers the pack's examples only.",
        )
    return sorted(filter(is_usable, _candidates(root))) + examples.pairs_folders()


def pairs_path(name: str) -> Path:
    """The folder of one of :func:`pairs_folders`.

    Raises:
        PairError: there is none of that name under ``input/`` or among the examples, or the name leaves ``input/``.
    """
    example = examples.pairs_path(name)
    if example:
        return example
    folder = resolve_inside(folder_paths.get_input_directory(), name, error=PairError)
    if not os.path.isdir(folder):
        raise PairError(
            f"Pairs folder '{name}' does not exist in ComfyUI's input folder. Copy the folder there and refresh the list (key R)."
        )
    return folder


def folder_state(folder: Path) -> str:
    """Changes whenever a file in the folder does. What cannot be read does not count."""
    state = hashlib.sha256()
    for name, found in listing.walk(folder, _STATE_DEPTH):
        for file in found.files:
            path = os.path.join(folder, name, file)
            state.update(f"{name}/{file} {_time(path)}\n".encode(errors="surrogateescape"))
    return state.hexdigest()


def file_state(path: Path) -> str:
    """Changes whenever the file does."""
    return f"{path} {_time(path)}"


def _time(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _candidates(root: str) -> set[str]:
    names: set[str] = set()
    whole: set[str] = set()
    for name, found in listing.walk(root, _DEPTH):
        above = name.rpartition("/")[0]
        if above in whole:  # its images are one side of pairs
            whole.add(name)
        elif name and sides_among(found.folders):
            whole.add(name)
            names.add(name)
        elif name and PROMPT in found.files:  # InstructPix2Pix's trees have a folder for each few pairs
            names.add(above or name)
        elif name and any(
            file in LISTS or os.path.splitext(file)[1].lower() in IMAGES for file in found.files
        ):
            names.add(name)
    return names
