"""The pack's example files: pairs, an instruction, a ControlNet and a LoRA."""

from pathlib import Path

import folder_paths

from . import listing

FOLDER = Path(__file__).parents[3] / "example_workflows"
_MARK = " (example)"


def register() -> None:
    """Adds the example models to ComfyUI's folders. They come last, so the user's files win."""
    for kind in listing.entries(FOLDER / "models").folders:
        folder_paths.add_model_folder_path(kind, str(FOLDER / "models" / kind))


def pairs_folders() -> list[str]:
    """Returns the names of the example pairs folders in Load Edit Pairs."""
    return [name + _MARK for name in listing.entries(FOLDER / "pairs").folders]


def pairs_path(name: str) -> Path | None:
    """Returns the folder of one of ``pairs_folders``, None for any other name."""
    if name not in pairs_folders():
        return None
    return FOLDER / "pairs" / name.removesuffix(_MARK)
