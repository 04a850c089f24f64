"""What Find Region keeps between runs, and the data of its panel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...core.regions.boxes import box_mask
from ...core.regions.finder import (
    FoundObject,
    ObjectChoice,
    RegionFinder,
    check_threshold,
    chosen_objects,
    object_key,
)
from ..shared.kept_results import KeptResults
from ..shared.previews import previews

_MOST_OFFERED = 50
"""Objects of an image that are found beside those that the node returns, for the panel."""
_MOST_SHOWN = 8
"""Images of a batch that the panel shows."""
_MOST_BYTES = 256 * 2**20

ObjectsOfImages = list[list[FoundObject]]


def _small_enough(found: ObjectsOfImages) -> bool:
    return sum(each.mask.nbytes for objects in found for each in objects) <= _MOST_BYTES


# A new threshold or choice does not run the finder again.
_FOUND: KeptResults[ObjectsOfImages] = KeptResults(4, _small_enough)


@dataclass(frozen=True)
class Limits:
    """What decides which objects are returned."""

    threshold: float
    """Scores must exceed it."""
    word_threshold: float
    """``text_threshold`` of the finder. No object has a lower score."""
    most: int

    @staticmethod
    def of(finder: RegionFinder, box: float | None, text: float | None, most: int) -> "Limits":
        """The limits, with the finder's own for None.

        Raises:
            RegionError: a threshold is not in 0..1.
        """
        return Limits(
            check_threshold("box_threshold", box, finder.thresholds[0], finder.name),
            check_threshold("text_threshold", text, finder.thresholds[1], finder.name),
            most,
        )


def find_all(
    given: object,
    image: Tensor,
    finder: RegionFinder,
    phrases: Sequence[str],
    limits: Limits,
    prepare: Callable[[], Callable[[int, int], None]],
) -> ObjectsOfImages:
    """Finds the objects in images [B, H, W, C] with any score, best first. Their masks are bool.

    Args:
        given: the node's input, by which a result is found again.
        image: its images, [B, H, W, 3 or more].
        finder: the finder.
        phrases: what to look for.
        limits: the thresholds and the number of objects.
        prepare: called before the finder runs; returns what to call with the images that are done and all.
    """
    most = max(limits.most, _MOST_OFFERED)

    def find() -> ObjectsOfImages:
        progress = prepare()
        found: ObjectsOfImages = []
        for frame in image[..., :3]:
            progress(len(found), len(image))
            objects = finder.find(frame, phrases, 0.0, limits.word_threshold, most)
            found.append([replace(each, mask=each.mask.bool()) for each in objects])
        progress(len(found), len(image))
        return found

    return _FOUND.get((given, finder), (tuple(phrases), limits.word_threshold, most), find)


def choose(found: ObjectsOfImages, limits: Limits, choice: ObjectChoice) -> ObjectsOfImages:
    """Returns the objects that the limits and the user leave, with masks in fp32."""
    return [
        [
            replace(each, mask=each.mask.float())
            for each in chosen_objects(objects, limits.threshold, limits.most, choice, number)
        ]
        for number, objects in enumerate(found)
    ]


def gone(found: ObjectsOfImages, choice: ObjectChoice) -> int:
    """Number of chosen boxes that were not found."""
    keys = {object_key(number, each) for number, objects in enumerate(found) for each in objects}
    return len((choice.left_out | choice.included) - keys)


def panel_data(
    image: Tensor,
    found: ObjectsOfImages,
    limits: Limits,
    finder: RegionFinder,
    choice: ObjectChoice,
    remarks: Sequence[str],
) -> dict[str, Any]:
    """Returns the data of the panel: images, all boxes with their scores, and the limits."""
    shown = image[:_MOST_SHOWN, ..., :3]
    return {
        "images": previews(shown).get("images", []),
        "count": len(image),
        "width": image.shape[2],
        "height": image.shape[1],
        "threshold": limits.threshold,
        "own_threshold": finder.thresholds[0],
        "least": limits.word_threshold,
        "most": limits.most,
        "objects": [
            [
                {
                    "key": object_key(number, each),
                    "phrase": each.phrase,
                    "score": each.score,
                    "box": [each.box.left, each.box.top, each.box.right, each.box.bottom],
                }
                for each in objects
            ]
            for number, objects in enumerate(found[: len(shown)])
        ],
        "gone": gone(found, choice),
        "remarks": list(filter(None, remarks)),
    }


def boxes_mask(objects: Sequence[FoundObject], height: int, width: int) -> Tensor:
    """Returns the mask [H, W] of the boxes of objects."""
    return box_mask([found.box for found in objects], height, width)


def bbox(found: FoundObject) -> dict[str, Any]:
    """Converts an object's box to the format of ComfyUI's detectors, in pixels."""
    box = found.box
    return {
        "x": box.left,
        "y": box.top,
        "width": box.right - box.left,
        "height": box.bottom - box.top,
        "label": found.phrase,
        "score": found.score,
    }
