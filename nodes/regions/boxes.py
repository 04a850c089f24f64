"""Converts ComfyUI's bounding boxes to core's boxes."""

from typing import Any

from ...core.errors import RegionError
from ...core.regions.boxes import Box


def read_boxes(boxes: Any, batch: int) -> list[list[Box]]:
    """Reads the value of a BOUNDING_BOX socket as a list of boxes for each image of a batch.

    Args:
        boxes: a dict with x, y, width and height in pixels; a list of dicts for all images; or a list of
            such lists, one for each image.
        batch: number of images. A single list is used for all.

    Raises:
        RegionError: ``boxes`` has another form, or lists for another number of images.
    """
    lists = [[boxes]] if isinstance(boxes, dict) else boxes
    if isinstance(lists, list) and not (lists and isinstance(lists[0], list)):
        lists = [lists]
    if not isinstance(lists, list) or not all(isinstance(entry, list) for entry in lists):
        raise RegionError(
            f"Boxes: {type(boxes).__name__} is not a list of boxes. Connect an output that gives "
            "BOUNDING_BOX."
        )
    if len(lists) not in (1, batch):
        raise RegionError(
            f"Boxes: there are boxes for {len(lists)} images, but {batch} masks. "
            "Give boxes for each, or one list for all."
        )
    read = [[_box(box) for box in entry] for entry in lists]
    return read if len(read) == batch else read * batch


def _box(box: Any) -> Box:
    try:
        left = float(box["x"])
        top = float(box["y"])
        width = float(box["width"])
        height = float(box["height"])
    except (KeyError, TypeError, ValueError) as error:
        raise RegionError(
            f"Boxes: {box!r:.80} is not a box. A box has the numbers x, y, width and height, in pixels."
        ) from error
    return Box(left, top, left + width, top + height)
