"""Where the models that come with the package are."""

from pathlib import Path

POCKET_FOLDER = Path(__file__).parent / "pocket"
"""The built-in editor, a diffusers folder."""

POCKET_REGION_FOLDER = Path(__file__).parent / "pocket_region"
"""Its sister that reads a mask: a diffusers folder with a UNet alone. All else is the built-in editor's."""

POCKET_FINDER_FOLDER = Path(__file__).parent / "pocket_finder"
"""The built-in region finder, a CLIPSeg folder."""

TITLES = {POCKET_FOLDER: "pocket editor", POCKET_REGION_FOLDER: "pocket region editor"}


def part_folder(folder: Path, part: str) -> Path:
    """The folder of a part (``"unet"``, ``"vae"``, ...) of a diffusers folder; the pocket region editor shares what it has not of its own."""
    own = folder / part
    return POCKET_FOLDER / part if folder == POCKET_REGION_FOLDER and not own.is_dir() else own
