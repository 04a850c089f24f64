"""Lists and loads the models in a ComfyUI installation that find regions by words."""

from pathlib import Path

import comfy.model_management
import torch

from ....core.models.builtin import POCKET_FINDER_FOLDER
from ....core.regions.finder import RegionFinder
from ....core.regions.finder_folders import CLIPSEG, GROUNDING_DINO, SAM, FolderKind, check_folder
from ....core.regions.finder_loading import load_finder
from ..folders import model_folders

POCKET_TITLE = "pocket finder (built in)"

_DINO = "grounding_dino"
_SAM = "sam"
_CLIPSEG = "clipseg"
WITHOUT_SAM = (POCKET_TITLE, f"{_CLIPSEG}/")
"""How the names of finders begin that need no SAM."""
_KINDS: dict[str, FolderKind] = {_DINO: GROUNDING_DINO, _CLIPSEG: CLIPSEG, _SAM: SAM}


def register() -> None:
    """Registers ``models/grounding_dino``, ``models/sam`` and ``models/clipseg`` as model folders."""
    for kind in _KINDS:
        model_folders.register_folders(kind)


def finder_names() -> list[str]:
    """Returns the built-in finder, if present, and the folders ``grounding_dino/…`` and ``clipseg/…``.

    An empty model folder is listed with the name of a public model that can be put there.
    """
    built_in = [POCKET_TITLE] if POCKET_FINDER_FOLDER.is_dir() else []
    return [*built_in, *(f"{kind}/{name}" for kind in (_DINO, _CLIPSEG) for name in _names(kind))]


def sam_names() -> list[str]:
    """Returns the folders in ``models/sam``, or the name of a public model that can be put there."""
    return _names(_SAM)


def folders(finder_name: str, sam_name: str) -> dict[str, Path]:
    """Returns the folders by kind for a choice from ``finder_names`` and ``sam_names``.

    The built-in finder has none.

    Raises:
        ModelError: a folder is missing, incomplete or of another kind.
    """
    if finder_name == POCKET_TITLE:
        return {}
    kind, _, name = finder_name.partition("/")
    if kind == _CLIPSEG:
        chosen = {_CLIPSEG: name}
    else:
        chosen = {_DINO: name if kind == _DINO else finder_name, _SAM: sam_name}
    paths = {kind: _folder(kind, name) for kind, name in chosen.items()}
    for kind, folder in paths.items():
        check_folder(folder, _KINDS[kind])
    return paths


def load(finder_name: str, sam_name: str) -> RegionFinder:
    """Loads a choice from ``finder_names`` and ``sam_names`` onto ComfyUI's offload device.

    Raises:
        ModelError: a folder is missing or invalid; see ``folders``.
    """
    paths = folders(finder_name, sam_name)
    with torch.inference_mode(False):
        return load_finder(
            paths.get(_DINO),
            paths.get(_SAM),
            paths.get(_CLIPSEG),
            comfy.model_management.text_encoder_offload_device(),
        )


def _names(kind: str) -> list[str]:
    return list(model_folders.transformers_folders(kind)) or [_KINDS[kind].public.split("/")[1]]


def _folder(kind: str, name: str) -> Path:
    """Returns the path of a model's folder, which may not exist."""
    return model_folders.folder_named(kind, name, model_folders.transformers_folders(kind))
