from dataclasses import dataclass
from typing import Any

import pytest
import torch

from instructbrush.core.generation.engine.build import run_row
from instructbrush.core.generation.engine.tables import RowResult
from instructbrush.core.generation.images import as_png
from instructbrush.core.generation.reason.verifying import MISSING, share_inside, verification_stage
from instructbrush.core.regions.boxes import Box
from instructbrush.core.regions.finder import FoundObject

PLACE = [10.0, 10.0, 30.0, 30.0]


@dataclass(frozen=True)
class Finds:
    """A finder that finds every phrase in the same boxes."""

    boxes: tuple[Box, ...]
    name: str = "finder"

    def find(self, image: torch.Tensor, phrases: Any, *_: object) -> list[FoundObject]:
        mask = torch.zeros(image.shape[:2])
        scores = (0.4, 0.9, 0.6)
        return [
            FoundObject(phrases[0], score, box, mask) for box, score in zip(self.boxes, scores, strict=False)
        ]


def verified(*boxes: Box, part: int = 2) -> RowResult:
    stage = verification_stage(lambda: Finds(boxes))  # pyright: ignore[reportArgumentType] (only find)
    image = as_png(torch.rand(40, 40, 3))
    row = {"id": "a", "part": part, "edited_image": image, "target_object": "bee", "box": PLACE}
    return run_row(stage, stage.start(), 0, row)


def test_keeps_a_target_in_its_place() -> None:
    result = verified(Box(12, 12, 28, 28), Box(11, 11, 31, 30))
    assert result.rows[0]["target_score"] == 0.9


@pytest.mark.parametrize("boxes", [(), (Box(0, 0, 9, 9),), (Box(25, 25, 40, 40),)])
def test_refuses_a_target_elsewhere(boxes: tuple[Box, ...]) -> None:
    result = verified(*boxes)
    assert (result.reason, result.detail) == (MISSING, "looked for bee with finder")


def test_leaves_pairs_alone() -> None:
    assert verified(part=1).rows[0]["target_score"] is None


@pytest.mark.parametrize(
    ("box", "share"),
    [((10, 10, 30, 30), 1.0), ((0, 10, 20, 30), 0.5), ((30, 30, 40, 40), 0.0), ((15, 15, 15, 20), 0.0)],
)
def test_share_of_a_box_inside_another(box: tuple[float, ...], share: float) -> None:
    assert share_inside(Box(*box), Box(*PLACE)) == share
