"""Loads a region finder from local folders."""

from pathlib import Path

import torch

from ..errors import ModelError
from ..models.builtin import POCKET_FINDER_FOLDER
from .clipseg import ClipSegFinder
from .finder import RegionFinder
from .grounded_sam import GroundedSam

_POCKET_THRESHOLDS = (0.5, 0.5)


def load_finder(
    dino_folder: Path | None = None,
    sam_folder: Path | None = None,
    clipseg_folder: Path | None = None,
    device: torch.device | str = "cpu",
) -> RegionFinder:
    """Loads Grounding DINO with SAM, or CLIPSeg, or without folders the built-in finder.

    Raises:
        ModelError: a folder cannot be loaded, only one of Grounding DINO and SAM is given, or there is no
            built-in finder.
    """
    if clipseg_folder is not None:
        return ClipSegFinder(clipseg_folder, device)
    if dino_folder is not None and sam_folder is not None:
        return GroundedSam(dino_folder, sam_folder, device)
    if dino_folder is not None or sam_folder is not None:
        raise ModelError(
            "Region finder: Grounding DINO finds boxes and SAM the masks in them. "
            "Give the folders of both, or one of CLIPSeg."
        )
    if not POCKET_FINDER_FOLDER.is_dir():
        raise ModelError(
            "Region finder: this build of InstructBrush has no built-in one. "
            "Give the folders of Grounding DINO and SAM, or one of CLIPSeg."
        )
    return ClipSegFinder(POCKET_FINDER_FOLDER, device, "pocket finder", _POCKET_THRESHOLDS)
