"""Where the weights that LPIPS needs lie in a ComfyUI installation."""

from pathlib import Path

import folder_paths

FOLDER = "models/lpips"


def backbone() -> Path | None:
    """AlexNet's weights: the first .safetensors of ``models/lpips`` with alexnet in its name; None when there is none."""
    folder = Path(folder_paths.models_dir) / "lpips"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return next((file for file in files if "alexnet" in file.name.lower() and file.suffix == ".safetensors"), None)
