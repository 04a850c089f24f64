"""Where the models that come with the package are."""

from pathlib import Path

from .weights import weight_files

POCKET_FOLDER = Path(__file__).parent / "pocket"
"""The built-in editor, a diffusers folder."""

POCKET_REGION_FOLDER = Path(__file__).parent / "pocket_region"
"""Its sister that reads a mask: what its UNet has of its own. All else is the built-in editor's."""

POCKET_FINDER_FOLDER = Path(__file__).parent / "pocket_finder"
"""The built-in region finder, a CLIPSeg folder."""

POCKET_READER_FOLDER = Path(__file__).parent / "pocket_reader"
"""The built-in vision-language model, a LLaVA folder."""

POCKET_REASON_FOLDER = Path(__file__).parent / "pocket_reason"
"""The built-in editor's sister that was tuned together with the reader's connector: what its UNet has of its own, and the connector."""

POCKET_CONNECTOR_FILE = POCKET_REASON_FOLDER / "connector.safetensors"

TITLES = {
    POCKET_FOLDER: "pocket editor",
    POCKET_REGION_FOLDER: "pocket region editor",
    POCKET_REASON_FOLDER: "pocket reasoning editor",
    POCKET_READER_FOLDER: "pocket reader",
}


def part_folder(folder: Path, part: str) -> Path:
    """The folder of a part (``"unet"``, ``"vae"``, ...) of a diffusers folder; the pocket editor's sisters share what they have not of their own."""
    own = folder / part
    return (
        POCKET_FOLDER / part
        if folder in (POCKET_REGION_FOLDER, POCKET_REASON_FOLDER) and not own.is_dir()
        else own
    )


def part_files(folder: Path, part: str, stems: tuple[str, ...]) -> list[Path]:
    """The weights of a part; where a tensor is in several files, the last one counts. Empty where there are none.

    Raises:
        ModelError: a shard is missing.
    """
    own = weight_files(part_folder(folder, part), stems)
    shares = folder in (POCKET_REGION_FOLDER, POCKET_REASON_FOLDER) and own and own[0].is_relative_to(folder)
    return [*weight_files(POCKET_FOLDER / part, stems), *own] if shares else own
