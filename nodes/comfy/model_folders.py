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


def register_folders(kind: str) -> None:
    """Make ``models/<kind>`` a kind of model folder whose models are folders themselves. Other packs may use the same one: what it lists stays as it is."""
    folder = Path(folder_paths.models_dir) / kind
    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path(kind, str(folder))


def transformers_folders(kind: str) -> dict[str, Path]:
    """Name -> folder of every model in transformers' layout below the folders of a kind, such as ``sam-vit-base`` or ``facebook/sam-vit-base``. The
    first root that has a name wins."""
    found: dict[str, Path] = {}
    for root in folders_of(kind):
        for config in sorted([*root.glob("*/config.json"), *root.glob("*/*/config.json")]):
            found.setdefault(config.parent.relative_to(root).as_posix(), config.parent)
    return found


def folders_of(kind: str) -> list[Path]:
    """Every folder of a kind, the first one first."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
