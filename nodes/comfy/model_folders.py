"""Folders of models, entered where ComfyUI keeps its own kinds."""

from pathlib import Path

import folder_paths

SUFFIX = ".safetensors"


def register(kind: str, *more: Path) -> None:
    """Make ``models/<kind>``, and ``more`` folders, one kind of model folder that lists .safetensors files. extra_model_paths.yaml may add to it."""
    for folder in (Path(folder_paths.models_dir) / kind, *more):
        folder.mkdir(parents=True, exist_ok=True)
        folder_paths.add_model_folder_path(kind, str(folder))
    # add_model_folder_path enters no file types, and without any every file would be listed.
    folder_paths.folder_names_and_paths[kind] = (folder_paths.folder_names_and_paths[kind][0], {SUFFIX})


def folders_of(kind: str) -> list[Path]:
    """Every folder of a kind, the first one first."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
