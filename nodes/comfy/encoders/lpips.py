"""Finds the weights that LPIPS needs in a ComfyUI installation."""

from pathlib import Path

from ..folders import listing, model_folders

FOLDER = "lpips"


def register() -> None:
    """Registers ``models/lpips`` as a model folder."""
    model_folders.register(FOLDER)


def backbone() -> Path | None:
    """Returns AlexNet's weights: the first .safetensors file with alexnet in its name, or None."""
    files = (
        folder / name
        for folder in model_folders.folders_of(FOLDER)
        for name in listing.files_below(folder, model_folders.SUFFIX)
    )
    return next((file for file in files if "alexnet" in file.name.lower()), None)
