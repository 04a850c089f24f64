"""Lists and loads the CLIP models in a ComfyUI installation."""

from pathlib import Path

import comfy.model_management
import folder_paths
import torch

from ....core.encoders.clip import OpenClipModel
from ....core.encoders.clip_loading import KNOWN_NAMES, clip_file, clip_names, load_clip
from ....core.errors import ModelError
from ....core.storage.names import resolve_inside
from ..folders import listing, model_folders

FOLDER = "open_clip"
POCKET_TITLE = "pocket CLIP (built in)"


def register() -> None:
    """Registers ``models/open_clip`` as a model folder."""
    model_folders.register(FOLDER)


def names() -> list[str]:
    """Returns the built-in CLIP, those of the papers (also without files), and others in the folder."""
    found = [name for folder in model_folders.folders_of(FOLDER) for name in _names_in(folder)]
    return list(dict.fromkeys([POCKET_TITLE, *KNOWN_NAMES, *found]))


def file_of(name: str) -> Path | None:
    """Returns the file of one of ``names``, or None for the built-in CLIP.

    Raises:
        ModelError: the file is missing, or the name is invalid.
    """
    if name == POCKET_TITLE:
        return None
    folders = model_folders.folders_of(FOLDER)
    resolve_inside(folders[0], name, model_folders.SUFFIX, error=ModelError)
    for folder in folders[:-1]:
        try:
            return clip_file(name, folder)
        except ModelError:
            continue
    return clip_file(name, folders[-1])


def load(name: str) -> OpenClipModel:
    """Loads one of ``names`` onto ComfyUI's offload device.

    Raises:
        ModelError: the file is missing or cannot be used.
    """
    file = file_of(name)
    with torch.inference_mode(False):
        return load_clip(
            None if file is None else name,
            file.parent if file else None,
            comfy.model_management.text_encoder_offload_device(),
        )


def cache_folder() -> Path:
    """Returns the folder for features of word lists, in ComfyUI's system folder, which is not served."""
    return Path(folder_paths.get_system_user_directory("instructbrush")) / "phrases"


def _names_in(folder: Path) -> list[str]:
    try:
        return clip_names(folder)
    except OSError as error:
        listing.warn_once(str(folder), f"folder {folder} cannot be read ({error}). Its files are not listed.")
        return []
