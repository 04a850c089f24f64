"""Scores of methods on items, and their folder."""

from dataclasses import dataclass
from pathlib import Path

from ...storage.image_files import save_image
from ...storage.image_tensors import to_image
from ..results import Key, ResultFolder
from .items import Item, editor_input


@dataclass(frozen=True)
class Score:
    """Figures of one method on one item with one seed. Lists are in the order of ``Item.turn_of``."""

    item: str
    scope: str
    """The kind of edit, or the session's number of turns."""
    method: str
    seed: int
    turns: int
    l1: tuple[float, ...]
    l2: tuple[float, ...]
    clip_i: tuple[float, ...]
    dino: tuple[float, ...] | None
    """None without a DINO model."""
    clip_t: tuple[float | None, ...]
    """cos(E(out), E(caption)); None without a caption."""
    clip_dir: tuple[float | None, ...]
    """cos(E(out) - E(in), E(caption) - E(caption before)); None without both captions."""
    seconds: float = 0.0
    """Wall time of editing."""
    recipe: str = ""
    """Identity of images made elsewhere; empty for methods that edit here."""

    @property
    def key(self) -> Key:
        """(method, item, seed)."""
        return self.method, self.item, self.seed


class ItemFolder(ResultFolder):
    """The folder of a run on items."""

    record = Score
    subfolder = "items"
    optional_entries = ("instruction", "mllm", "connector", "tuned_model")
    redo_advice = "delete this one"

    def save_item_images(self, item: Item, side: int | None) -> None:
        """Saves each turn's source and ground truth for the report, at the size of the edit."""
        for index, turn in enumerate(item.turns):
            for kind, image in (("source", turn.source), ("truth", turn.truth)):
                path = self.own(item.name, kind, index)
                if image is not None and not path.exists():
                    save_image(to_image(editor_input(image, side)), path)

    def own(self, item: str, kind: str, turn: int) -> Path:
        """Path of an item's ``source`` or ``truth`` image."""
        return self.path / self.subfolder / item / f"{kind}-{turn}.png"
