"""CLIPs in a ComfyUI installation: where their files lie, and when they are on the device."""

from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch

from ....core.encoders.clip import KNOWN_NAMES, OpenClipModel, clip_file, clip_names, load_clip
from ....core.errors import ModelError
from ....core.learning.init_text.vocabulary import Progress
from ....core.storage.names import resolve_inside
from ..folders import listing, model_folders
from ..learning.progress import check_interrupted
from . import residency as held

FOLDER = "open_clip"
POCKET_TITLE = "pocket CLIP (built in)"


def register() -> None:
    """Make ``models/open_clip`` a model folder like ComfyUI's own."""
    model_folders.register(FOLDER)


def names() -> list[str]:
    """The built-in CLIP, the papers' (whose files may still be missing), and whatever else lies in the folder."""
    found = [name for folder in model_folders.folders_of(FOLDER) for name in _names_in(folder)]
    return list(dict.fromkeys([POCKET_TITLE, *KNOWN_NAMES, *found]))


def file_of(name: str) -> Path | None:
    """The file of one of :func:`names`, ``None`` for the built-in CLIP.

    Raises:
        ModelError: it is not there, or the name cannot be one.
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
    """Load one of :func:`names`, to where ComfyUI keeps models that are not in use.

    Raises:
        ModelError: it is not there, or its file cannot be used.
    """
    file = file_of(name)
    with torch.inference_mode(False):
        return load_clip(
            None if file is None else name,
            file.parent if file else None,
            comfy.model_management.text_encoder_offload_device(),
        )


def prepare(clip: OpenClipModel) -> None:
    """Bring a CLIP to the device."""
    held.bring(clip, clip.module)


def cache_folder() -> Path:
    """Where features of word lists are kept: ComfyUI's folder for what is the server's own business, which no address reaches."""
    return Path(folder_paths.get_system_user_directory("instructbrush")) / "phrases"


def progress_of(node: str) -> Progress:
    """A node's progress bar for core: moved now and then, and raising ComfyUI's own exception when the user pressed cancel."""
    bar = comfy.utils.ProgressBar(100, node_id=node)

    def show(done: int, total: int) -> None:
        check_interrupted()
        bar.update_absolute(done, total)

    return show


def _names_in(folder: Path) -> list[str]:
    try:
        return clip_names(folder)
    except OSError as error:
        listing.warn_once(
            str(folder), f"folder {folder} cannot be read ({error}). What lies in it is not offered."
        )
        return []
