"""Where things lie in a ComfyUI installation, by names that cannot leave their folders."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...core.errors import EvaluationError, InstructionError, PairError
from ...core.names import resolve_inside
from . import examples, model_folders
from .model_folders import SUFFIX

INSTRUCTIONS = "instructions"
STUDIES = "instructbrush_studies"
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_DEPTH = 3


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
    return [name.replace("\\", "/") for name in folder_paths.get_filename_list(INSTRUCTIONS)]


def instruction_path(name: str) -> Path:
    """The file of one of :func:`instruction_names`.

    Raises:
        InstructionError: there is none of that name, or the name leaves its folder.
    """
    for folder in folder_paths.get_folder_paths(INSTRUCTIONS):
        path = resolve_inside(folder, name, SUFFIX)
        if path.is_file():
            return path
    raise InstructionError(
        f"Instruction '{name}' was not found in models/{INSTRUCTIONS} or output/{INSTRUCTIONS}. Refresh the list (key R) and choose one of it."
    )


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
    candidates = (path if number == 1 else path.with_stem(f"{path.stem}_{number}") for number in range(1, 1_000_000))
    return next(candidate for candidate in candidates if not candidate.exists())


def pairs_folders() -> list[str]:
    """Folders under ``input/`` that look like pairs (with pictures, ``before`` and ``after``, or a ``pairs.json``), then the pack's examples."""
    return sorted(_candidates(_input(), "", 1)) + examples.pairs_folders()


def pairs_path(name: str) -> Path:
    """The folder of one of :func:`pairs_folders`.

    Raises:
        PairError: there is none of that name under ``input/`` or among the examples.
    """
    example = examples.pairs_path(name)
    if example:
        return example
    root = _input()
    folder = (root / name).resolve()
    if not name.strip() or not folder.is_relative_to(root) or not folder.is_dir():
        raise PairError(f"Pairs folder '{name}' does not exist in ComfyUI's input folder. Copy the folder there and refresh the list (key R).")
    return folder


def folder_state(folder: Path) -> str:
    """Changes whenever a file in the folder does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def file_state(path: Path) -> str:
    """Changes whenever the file does."""
    return f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}"


def _input() -> Path:
    return Path(folder_paths.get_input_directory()).resolve()


def _candidates(folder: Path, name: str, depth: int) -> Iterator[str]:
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    folders = {path.name: path for path in inside if path.is_dir()}
    before_and_after = {"before", "after"} <= set(folders)
    if name and (before_and_after or any(path.suffix.lower() in _PICTURES or path.name == "pairs.json" for path in inside)):
        yield name
    if depth <= _DEPTH and not before_and_after:
        for child, path in folders.items():
            yield from _candidates(path, f"{name}/{child}" if name else child, depth + 1)
