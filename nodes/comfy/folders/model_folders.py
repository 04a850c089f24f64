"""Folders of models, entered where ComfyUI keeps its own kinds."""

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ....core.errors import InstructBrushError, ModelError
from ....core.models.hub_folders import model_folder
from ....core.storage.names import is_usable, resolve_inside
from . import listing

SUFFIX = ".safetensors"
_CACHED = "models--"
"""What folders of the Hugging Face cache begin with: ``models--owner--name``."""


def register(kind: str, *more: Path) -> None:
    """Make ``models/<kind>``, and ``more`` folders, one kind of model folder that lists .safetensors files. extra_model_paths.yaml may add to it."""
    for folder in (Path(folder_paths.models_dir) / kind, *more):
        _enter(kind, folder)
    # add_model_folder_path enters no file types, and without any every file would be listed.
    folder_paths.folder_names_and_paths[kind] = (folder_paths.folder_names_and_paths[kind][0], {SUFFIX})


def register_folders(kind: str) -> None:
    """Make ``models/<kind>`` a kind of model folder whose models are folders themselves. Other packs may use the same one: what it lists stays as it is."""
    _enter(kind, Path(folder_paths.models_dir) / kind)


def folders_of(kind: str) -> list[Path]:
    """Every folder of a kind, the first one first."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def files(kind: str) -> list[str]:
    """Every .safetensors file of a kind, by its path inside its folder."""
    return sorted({name for root in folders_of(kind) for name in listing.files_below(root, SUFFIX)})


def file_of(kind: str, name: str, error: type[InstructBrushError] = ModelError) -> Path | None:
    """The file of one of :func:`files`, with or without its ending; None where there is none.

    Raises:
        InstructBrushError: the name leaves its folder, or cannot be a name. It is one of ``error``.
    """
    paths = [resolve_inside(root, name, SUFFIX, error=error) for root in folders_of(kind)]
    return next((path for path in paths if os.path.isfile(path)), None)


def transformers_folders(kind: str) -> dict[str, Path]:
    """Name -> folder of every model in transformers' layout below the folders of a kind, such as ``sam-vit-base`` or ``facebook/sam-vit-base``. The
    first root that has a name wins."""
    return folders_with("config.json", kind, 2)


def folders_with(file: str, kind: str, depth: int) -> dict[str, Path]:
    """Name -> folder of every model below the folders of a kind that holds a certain file, at most ``depth`` levels down. A model in the Hugging Face cache is
    called by its name on the hub, ``facebook/sam-vit-base``."""
    found: dict[str, Path] = {}
    for root in folders_of(kind):
        for name, folder in _models(root, depth, file):
            if is_usable(name):
                found.setdefault(name, folder)
    return found


def folder_named(kind: str, name: str, found: dict[str, Path]) -> Path:
    """Where a model lies, or where it would belong. A name that was not ``found`` may be anything: it is only looked for below the folders.

    Raises:
        ModelError: the name leaves its folder, or cannot be a name.
    """
    if name in found:
        return found[name]
    paths = [model_folder(resolve_inside(root, name, error=ModelError)) for root in folders_of(kind)]
    return next((path for path in paths if os.path.isdir(path)), paths[0])


def _enter(kind: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a disk that is read-only, or a link to one that is not there
        listing.warn_once(
            f"made in {folder.parent}",
            f"folder {folder} cannot be made ({error}). extra_model_paths.yaml may name another one.",
        )
    folder_paths.add_model_folder_path(kind, str(folder))


def _models(root: Path, depth: int, file: str) -> Iterator[tuple[str, Path]]:
    for name, found in listing.walk(root, depth):
        above, _, last = name.rpartition("/")
        if above.startswith(_CACHED) or f"/{_CACHED}" in above:
            continue
        if last.startswith(_CACHED):
            folder = model_folder(root / name)
            if file in listing.entries(folder).files:
                yield (
                    "/".join(filter(None, [above, last.removeprefix(_CACHED).replace("--", "/", 1)])),
                    folder,
                )
        elif name and file in found.files:
            yield name, root / name
