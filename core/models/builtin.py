"""Folders of the models that come with the package."""

import os
from pathlib import Path

from .hub_folders import model_folder, model_title
from .weights import weight_files

POCKET_FOLDER = Path(__file__).parent / "pocket"
"""The built-in editor, a diffusers folder."""

POCKET_REGION_FOLDER = Path(__file__).parent / "pocket_region"
"""A fine-tune that reads a mask. It only has its own UNet; all else is shared with the built-in editor."""

POCKET_FINDER_FOLDER = Path(__file__).parent / "pocket_finder"
"""The built-in region finder, a CLIPSeg folder."""

POCKET_READER_FOLDER = Path(__file__).parent / "pocket_reader"
"""The built-in vision-language model, a LLaVA folder."""

POCKET_REASON_FOLDER = Path(__file__).parent / "pocket_reason"
"""A fine-tune for the reader's connector. It only has its own UNet and the connector."""

POCKET_CONNECTOR_FILE = POCKET_REASON_FOLDER / "connector.safetensors"

TITLES = {
    POCKET_FOLDER: "pocket editor",
    POCKET_REGION_FOLDER: "pocket region editor",
    POCKET_REASON_FOLDER: "pocket reasoning editor",
    POCKET_READER_FOLDER: "pocket reader",
}


def resolved(path: str | Path) -> Path:
    """Returns the folder or file of a model, see ``model_folder``; one of the folders above by any path."""
    found = model_folder(path)
    return next((folder for folder in TITLES if _is_same(folder, found)), found)


def title_of(path: Path) -> str:
    """Returns a model's name for messages."""
    return TITLES.get(path) or model_title(path)


def part_folder(folder: Path, part: str) -> Path:
    """Returns the folder of a part (``"unet"``, ``"vae"``, ...) of a diffusers folder.

    The pocket editor's fine-tunes share the parts that they do not have.
    """
    own = folder / part
    if _shares_parts(folder) and not own.is_dir():
        return POCKET_FOLDER / part
    return own


def part_files(folder: Path, part: str, stems: tuple[str, ...]) -> list[Path]:
    """Returns the weight files of a part, maybe none. If a tensor is in several, the last one counts.

    Raises:
        ModelError: a shard is missing.
    """
    own = weight_files(part_folder(folder, part), stems)
    # The fine-tunes store the changed tensors only, on top of the built-in editor's.
    if _shares_parts(folder) and own and own[0].is_relative_to(folder):
        return [*weight_files(POCKET_FOLDER / part, stems), *own]
    return own


def _is_same(folder: Path, other: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)


def _shares_parts(folder: Path) -> bool:
    return folder in (POCKET_REGION_FOLDER, POCKET_REASON_FOLDER)
