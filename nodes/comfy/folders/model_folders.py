"""Model folders of the pack's kinds, registered with ComfyUI."""

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ....core.errors import InstructBrushError, ModelError
from ....core.models.hub_folders import model_folder
from ....core.storage.names import is_usable, resolve_inside
from . import listing

SUFFIX = ".safetensors"
# Folders of the Hugging Face cache are called models--owner--name.
_CACHE_PREFIX = "models--"


def register(kind: str, *more: Path) -> None:
    """Registers ``models/<kind>`` and ``more`` folders as a kind that lists .safetensors files.

    extra_model_paths.yaml may add folders to it.
    """
    for folder in (Path(folder_paths.models_dir) / kind, *more):
        _add_folder(kind, folder)
    # add_model_folder_path sets no file types; without any, every file would be listed. Other packs may use
    # the same kind with other types.
    folders, types = folder_paths.folder_names_and_paths[kind]
    folder_paths.folder_names_and_paths[kind] = (folders, {*types, SUFFIX})


def register_folders(kind: str) -> None:
    """Registers ``models/<kind>`` as a kind whose models are folders.

    Its file types are left alone, because other packs may use the same kind.
    """
    _add_folder(kind, Path(folder_paths.models_dir) / kind)


def folders_of(kind: str) -> list[Path]:
    """Returns the folders of a kind, in order of precedence."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def files(kind: str) -> list[str]:
    """Returns the .safetensors files of a kind, by their paths inside its folders."""
    return sorted({name for root in folders_of(kind) for name in listing.files_below(root, SUFFIX)})


def file_of(kind: str, name: str, error: type[InstructBrushError] = ModelError) -> Path | None:
    """Returns the file of one of ``files``, with or without its suffix; None if it does not exist.

    Raises:
        error: the name is invalid or leaves its folder.
    """
    paths = [resolve_inside(root, name, SUFFIX, error=error) for root in folders_of(kind)]
    return next((path for path in paths if os.path.isfile(path)), None)


def transformers_folders(kind: str) -> dict[str, Path]:
    """As ``folders_with``, for models in transformers' layout such as ``facebook/sam-vit-base``."""
    return folders_with("config.json", kind, 2)


def folders_with(file: str, kind: str, depth: int) -> dict[str, Path]:
    """Returns name -> folder of every model of a kind that holds ``file``, at most ``depth`` levels down.

    The first folder that has a name wins. Models in the Hugging Face cache are called by their names on the
    hub, e.g. ``facebook/sam-vit-base``.
    """
    found: dict[str, Path] = {}
    for root in folders_of(kind):
        for name, folder in _models(root, depth, file):
            if is_usable(name):
                found.setdefault(name, folder)
    return found


def folder_named(kind: str, name: str, found: dict[str, Path]) -> Path:
    """Returns the folder of a model, or where it belongs if it does not exist.

    Raises:
        ModelError: the name is invalid or leaves its folder.
    """
    if name in found:
        return found[name]
    paths = [model_folder(resolve_inside(root, name, error=ModelError)) for root in folders_of(kind)]
    return next((path for path in paths if os.path.isdir(path)), paths[0])


def _add_folder(kind: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a read-only disk, or a broken link
        listing.warn_once(
            f"made in {folder.parent}",
            f"folder {folder} cannot be made ({error}). Name another folder in extra_model_paths.yaml.",
        )
    folder_paths.add_model_folder_path(kind, str(folder))


def _models(root: Path, depth: int, file: str) -> Iterator[tuple[str, Path]]:
    for name, found in listing.walk(root, depth):
        above, _, last = name.rpartition("/")
        # Inside a cached model there are only its snapshots.
        if above.startswith(_CACHE_PREFIX) or f"/{_CACHE_PREFIX}" in above:
            continue
        if last.startswith(_CACHE_PREFIX):
            folder = model_folder(root / name)
            hub_name = last.removeprefix(_CACHE_PREFIX).replace("--", "/", 1)
            if file in listing.entries(folder).files:
                yield f"{above}/{hub_name}" if above else hub_name, folder
        elif name and file in found.files:
            yield name, root / name
