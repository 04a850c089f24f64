"""Which models find the boxes of objects."""

from dataclasses import dataclass
from pathlib import Path

from ....regions.finder import RegionFinder
from ....regions.finder_loading import load_finder
from ....regions.grounded_sam import GroundedSam


@dataclass(frozen=True)
class FinderSpec:
    """Grounding DINO, CLIPSeg, or without folders the built-in finder.

    Calling it raises ``ModelError`` if a folder cannot be loaded.
    """

    dino: str = ""
    """Folder of Grounding DINO. Its boxes are enough, so SAM takes no part."""
    clipseg: str = ""
    device: str = "cpu"

    def __call__(self) -> RegionFinder:
        """Loads the model."""
        if self.dino:
            return GroundedSam(Path(self.dino), None, self.device)
        return load_finder(clipseg_folder=Path(self.clipseg) if self.clipseg else None, device=self.device)
