"""Parts II and III: the selected object is replaced inside its box (Eq. 7)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...errors import BuildError
from ...regions.boxes import Box, box_mask, clip_boxes
from ..engine.stage import ID, Row, RowFunction, Stage, seed_of
from ..errors import Refused
from ..images import as_png, read_cell
from ..sources.rows import EDITED_CAPTION, EDITED_IMAGE, IMAGE
from .filtering import PAIRS

UNCHANGED = "the replacement hardly changes the image"


@dataclass(frozen=True)
class ReplacementRequest:
    """What is replaced in an image."""

    selected: str
    target: str
    box: Box
    """Of the selected object, in pixels and within the image."""
    caption: str
    """Of the edited image."""
    seed: int
    """0..2^31-1."""


class ObjectReplacer(Protocol):
    """Replaces objects. The same request gives the same image."""

    def replace(self, image: Tensor, request: ReplacementRequest) -> Tensor:
        """Returns an image of the same size that differs inside the box only.

        Args:
            image: [H, W, 3] fp32 in 0..1.
            request: what is replaced.
        """
        ...


@dataclass(frozen=True)
class _Replacing:
    replacer: Callable[[], ObjectReplacer]
    least_change: float

    def __call__(self) -> RowFunction:
        replacer = self.replacer()
        return lambda row: self._row(replacer, row)

    def _row(self, replacer: ObjectReplacer, row: Row) -> Sequence[Row]:
        if row["part"] == PAIRS:
            return [{EDITED_IMAGE: row[EDITED_IMAGE]}]
        image = read_cell(row[IMAGE], f"{row[ID]} {IMAGE}")
        height, width = image.shape[:2]
        (box,) = clip_boxes([Box(*row["box"])], width, height)
        request = ReplacementRequest(
            row["selected_object"],
            row["target_object"],
            box,
            row[EDITED_CAPTION],
            seed_of(row, "replacement") % 2**31,
        )
        edited = replacer.replace(image, request)
        inside = box_mask([box], height, width) > 0
        if edited.shape != image.shape or not edited.isfinite().all():
            raise BuildError(
                f"ReasonPix2Pix: of row '{row[ID]}' the replacer made an image of shape {list(edited.shape)} "
                f"instead of {list(image.shape)}, or values that are not finite. Use the model in fp32."
            )
        change = float((edited - image)[inside].double().square().mean())
        if change <= self.least_change:
            raise Refused(
                UNCHANGED, f"mean squared difference {change:.3g} inside the box of the {request.selected}"
            )
        return [{EDITED_IMAGE: as_png(edited)}]


def replacement_stage(
    replacer: Callable[[], ObjectReplacer], least_change: float = 1e-4, has_pairs: bool = False
) -> Stage:
    """Replaces the selected objects (Eq. 7). Adds or replaces ``edited_image``.

    Args:
        replacer: loads the replacer.
        least_change: mean squared difference inside the box that must be exceeded, as in Eq. 1.
        has_pairs: whether the build has rows of Part I, whose edited images are kept.
    """
    reads = ("part", IMAGE, "selected_object", "target_object", "box", EDITED_CAPTION)
    pairs = (EDITED_IMAGE,) if has_pairs else ()
    return Stage("replacement", (*reads, *pairs), {EDITED_IMAGE: "image"}, _Replacing(replacer, least_change))


def crop_around(box: Box, height: int, width: int) -> tuple[int, int, int]:
    """Returns top, left and side of the largest square in an image whose middle is closest to a box's.

    The box lies in the square unless it is longer than the image's shorter side.
    """
    side = min(height, width)
    top = min(max(round((box.top + box.bottom - side) / 2), 0), height - side)
    left = min(max(round((box.left + box.right - side) / 2), 0), width - side)
    return top, left, side


def inside_box(edited: Tensor, image: Tensor, box: Box) -> Tensor:
    """Returns an image whose pixels inside a box come from the edited one. Bit-identical outside."""
    inside = box_mask([box], *image.shape[:2]).to(image.device) > 0
    return torch.where(inside[..., None], edited.to(image), image)
