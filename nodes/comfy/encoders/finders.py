"""Models that find regions by words in a ComfyUI installation: where their folders lie, and when they are on the device."""

from pathlib import Path

import comfy.model_management
import torch

from ....core.models.builtin import POCKET_FINDER_FOLDER
from ....core.regions.finder import RegionFinder, load_finder
from ....core.regions.finder_models import CLIPSEG, GROUNDING_DINO, SAM, FolderKind, check_folder
from ..folders import model_folders
from . import residency as held

POCKET_TITLE = "pocket finder (built in)"

_DINO, _SAM, _CLIPSEG = "grounding_dino", "sam", "clipseg"
_KINDS: dict[str, FolderKind] = {_DINO: GROUNDING_DINO, _CLIPSEG: CLIPSEG, _SAM: SAM}


def register() -> None:
    """Make ``models/grounding_dino``, ``models/sam`` and ``models/clipseg`` model folders."""
    for kind in _KINDS:
        model_folders.register_folders(kind)


def finder_names() -> list[str]:
    """The built-in finder where there is one, ``grounding_dino/…`` and ``clipseg/…``: what lies there, or the public model that may be put there."""
    built_in = [POCKET_TITLE] if POCKET_FINDER_FOLDER.is_dir() else []
    return [*built_in, *(f"{kind}/{name}" for kind in (_DINO, _CLIPSEG) for name in _names(kind))]


def sam_names() -> list[str]:
    """Folders in ``models/sam``, or the public model that may be put there."""
    return _names(_SAM)


def folders(finder_name: str, sam_name: str) -> dict[str, Path]:
    """The folders that a choice of :func:`finder_names` and :func:`sam_names` stands for, by their kind; none for the built-in finder.

    Raises:
        ModelError: one is missing, incomplete or of another kind.
    """
    if finder_name == POCKET_TITLE:
        return {}
    kind, _, name = finder_name.partition("/")
    chosen = (
        {kind: name} if kind == _CLIPSEG else {_DINO: name if kind == _DINO else finder_name, _SAM: sam_name}
    )
    found = {kind: _folder(kind, name) for kind, name in chosen.items()}
    for kind, folder in found.items():
        check_folder(folder, _KINDS[kind])
    return found


def load(finder_name: str, sam_name: str) -> RegionFinder:
    """Load a choice of :func:`finder_names` and :func:`sam_names`, to where ComfyUI keeps models that are not in use.

    Raises:
        ModelError: as :func:`folders`, or its files cannot be used.
    """
    found = folders(finder_name, sam_name)
    with torch.inference_mode(False):
        return load_finder(
            found.get(_DINO),
            found.get(_SAM),
            found.get(_CLIPSEG),
            comfy.model_management.text_encoder_offload_device(),
        )


def prepare(finder: RegionFinder) -> None:
    """Bring a finder to the device."""
    held.bring(finder, finder.module)


def _names(kind: str) -> list[str]:
    return list(model_folders.transformers_folders(kind)) or [_KINDS[kind].public.split("/")[1]]


def _folder(kind: str, name: str) -> Path:
    """Where a model lies, or where it would belong."""
    return model_folders.folder_named(kind, name, model_folders.transformers_folders(kind))
