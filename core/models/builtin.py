"""Where the models that come with the package are."""

from pathlib import Path

from .weights import weight_files

POCKET_FOLDER = Path(__file__).parent / "pocket"
"""The built-in editor, a diffusers folder."""

POCKET_REGION_FOLDER = Path(__file__).parent / "pocket_region"
"""Its sister that reads a mask: what its UNet has of its own. All else is the built-in editor's."""

POCKET_FINDER_FOLDER = Path(__file__).parent / "pocket_finder"
"""The built-in region finder, a CLIPSeg folder."""

TITLES = {POCKET_FOLDER: "pocket editor", POCKET_REGION_FOLDER: "pocket region editor"}


def part_folder(folder: Path, part: str) -> Path:
    """The folder of a part (``"unet"``, ``"vae"``, ...) of a diffusers folder; the pocket region editor shares what it has not of its own."""
    own = folder / part
    return POCKET_FOLDER / part if folder == POCKET_REGION_FOLDER and not own.is_dir() else own


def part_files(folder: Path, part: str, stems: tuple[str, ...]) -> list[Path]:
    """The weights of a part; where a tensor is in several files, the last one counts. Empty where there are none.

    Raises:
        ModelError: a shard is missing.
    """
    own = weight_files(part_folder(folder, part), stems)
    shares = folder == POCKET_REGION_FOLDER and own and own[0].is_relative_to(folder)
    return [*weight_files(POCKET_FOLDER / part, stems), *own] if shares else own
