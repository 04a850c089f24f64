"""The region that an instruction edits: UltraEdit's stage III, from the edited objects to a mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import RegionError
from ..regions.boxes import box_mask
from ..regions.finder import FoundObject, RegionFinder, report_table, union_mask, unknown_remark
from .edited_objects import EditedObjects

WhenMissing = Literal["whole image", "empty", "stop"]
WHEN_MISSING: tuple[WhenMissing, ...] = ("whole image", "empty", "stop")


@dataclass(frozen=True)
class EditedRegion:
    """The region of one image, and how it was decided."""

    mask: Tensor
    """The fine mask M_f, fp32 [H, W]: 1 is edited. All 1 for the whole image."""
    box_mask: Tensor
    """The mask of the objects' boxes M_b, fp32 [H, W]. All 1 for the whole image."""
    objects: tuple[str, ...]
    """The objects that were searched; empty for the whole image."""
    report: str
    """What was decided and found, in lines for the user."""


def edited_region(
    finder: RegionFinder,
    image: Tensor,
    decided: EditedObjects,
    when_missing: WhenMissing = "whole image",
    thresholds: tuple[float | None, float | None] = (None, None),
) -> EditedRegion:
    """Finds the objects that an instruction edits.

    Args:
        finder: the model that finds objects by words.
        image: [H, W, 3] in 0..1.
        decided: the objects; none stand for the whole image, and the finder is not run.
        when_missing: the mask if none of the objects is found. "stop" raises an error.
        thresholds: see ``RegionFinder.find``.

    Raises:
        RegionError: nothing was found and ``when_missing`` is "stop", or see ``RegionFinder.find``.
    """
    height, width = image.shape[:2]
    lines = [decided.decision, *decided.remarks]
    whole = torch.ones(height, width)
    if not decided.objects:
        return EditedRegion(whole, whole, (), "\n".join(lines))
    unknown = unknown_remark(finder, decided.objects)
    found = finder.find(image, decided.objects, *thresholds)
    found = [each for each in found if each.mask.any()]
    if found:
        lines += [report_table(found, decided.objects), *filter(None, (unknown,))]
        masks = union_mask(found, height, width), _boxes(found, height, width)
        return EditedRegion(*masks, decided.objects, "\n".join(lines))
    missing = f"Nothing was found for {' and '.join(decided.objects)}"
    if when_missing == "stop" and unknown:
        raise RegionError(f"Find Edited Object: {unknown}")
    if when_missing == "stop":
        raise RegionError(
            f"Find Edited Object: {missing[0].lower()}{missing[1:]}. Name the object in other words, lower "
            "the least object score, or choose 'whole image' for what to do then."
        )
    lines.append(f"{missing}, so the mask is {'white' if when_missing == 'whole image' else 'empty'}.")
    lines += filter(None, (unknown,))
    mask = whole if when_missing == "whole image" else torch.zeros(height, width)
    return EditedRegion(mask, mask, decided.objects, "\n".join(lines))


def _boxes(found: Sequence[FoundObject], height: int, width: int) -> Tensor:
    return box_mask([each.box for each in found], height, width)
