"""Which models find objects and their regions."""

from dataclasses import dataclass, field
from pathlib import Path

from ..regions.finder import RegionFinder
from ..regions.finder_loading import load_finder
from ..regions.grounded_sam import GroundedSam


@dataclass(frozen=True)
class FinderModels:
    """Grounding DINO with or without SAM, CLIPSeg, or without folders the built-in finder.

    Calling it raises ``ModelError`` if a folder cannot be loaded.
    """

    dino: str = ""
    """Folder of Grounding DINO."""
    sam: str = ""
    """Folder of SAM. Without it, Grounding DINO finds boxes and no masks."""
    clipseg: str = ""
    device: str = field(default="cpu", repr=False)

    def __call__(self) -> RegionFinder:
        """Loads the models."""
        if self.dino and not self.sam:
            return GroundedSam(Path(self.dino), None, self.device)
        dino, sam, clipseg = (
            Path(folder) if folder else None for folder in (self.dino, self.sam, self.clipseg)
        )
        return load_finder(dino, sam, clipseg, self.device)
