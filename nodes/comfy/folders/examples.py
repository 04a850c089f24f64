"""What the example workflows use: pairs, an instruction, a ControlNet and a LoRA that come with the pack, listed beside the user's own files."""

from pathlib import Path

import folder_paths

from . import listing

FOLDER = Path(__file__).parents[3] / "example_workflows"
_MARK = " (example)"


def register() -> None:
    """Enter the models among ComfyUI's folders, after the user's: a file of the user's with the same name wins."""
    for kind in listing.entries(FOLDER / "models").folders:
        folder_paths.add_model_folder_path(kind, str(FOLDER / "models" / kind))


def pairs_folders() -> list[str]:
    """Folders of example pairs, as Load Edit Pairs lists them."""
    return [name + _MARK for name in listing.entries(FOLDER / "pairs").folders]


def pairs_path(name: str) -> Path | None:
    """The folder of one of :func:`pairs_folders`, None for any other name."""
    return FOLDER / "pairs" / name.removesuffix(_MARK) if name in pairs_folders() else None
