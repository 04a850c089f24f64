"""Where the weights that LPIPS needs lie in a ComfyUI installation."""

from pathlib import Path

from ..folders import listing, model_folders

FOLDER = "lpips"


def register() -> None:
    """Make ``models/lpips`` a model folder."""
    model_folders.register(FOLDER)


def backbone() -> Path | None:
    """AlexNet's weights: the first .safetensors with alexnet in its name; None when there is none."""
    files = (
        folder / name
        for folder in model_folders.folders_of(FOLDER)
        for name in listing.files_below(folder, model_folders.SUFFIX)
    )
    return next((file for file in files if "alexnet" in file.name.lower()), None)
