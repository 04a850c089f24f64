"""Parts II and III: whether the new object stands where the old one was. The paper has no such check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...regions.boxes import Box
from ...regions.finder import RegionFinder
from ..engine.stage import ID, Row, RowFunction, Stage
from ..errors import Refused
from ..images import read_cell
from ..sources.rows import EDITED_IMAGE
from .filtering import PAIRS
from .objects import BoxLimits

MISSING = "the new object was not found in its place"

# A box lies in its place if at least this share of it is inside the replaced object's.
_LEAST_INSIDE = 0.5


@dataclass(frozen=True)
class _Verifying:
    finder: Callable[[], RegionFinder]
    limits: BoxLimits

    def __call__(self) -> RowFunction:
        finder = self.finder()
        return lambda row: self._row(finder, row)

    def _row(self, finder: RegionFinder, row: Row) -> Sequence[Row]:
        if row["part"] == PAIRS:
            return [{"target_score": None}]
        image = read_cell(row[EDITED_IMAGE], f"{row[ID]} {EDITED_IMAGE}")
        target = row["target_object"]
        found = finder.find(image, [target], self.limits.box_threshold, self.limits.text_threshold)
        scores = [each.score for each in found if share_inside(each.box, Box(*row["box"])) >= _LEAST_INSIDE]
        if not scores:
            raise Refused(MISSING, f"looked for {target} with {finder.name}")
        return [{"target_score": max(scores)}]


def verification_stage(finder: Callable[[], RegionFinder], limits: BoxLimits | None = None) -> Stage:
    """Keeps rows whose edited image shows the target object inside the box. Adds ``target_score``.

    Args:
        finder: loads the finder that found the box.
        limits: its thresholds.
    """
    reads = ("part", EDITED_IMAGE, "target_object", "box")
    return Stage("verification", reads, {"target_score": "number"}, _Verifying(finder, limits or BoxLimits()))


def share_inside(box: Box, place: Box) -> float:
    """Returns the share of a box's area that lies inside another, in 0..1."""
    width = max(0.0, min(box.right, place.right) - max(box.left, place.left))
    height = max(0.0, min(box.bottom, place.bottom) - max(box.top, place.top))
    return width * height / box.area if box.area > 0 else 0.0
