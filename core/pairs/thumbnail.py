"""The picture of a learned instruction: its first pair."""

from PIL import Image

from ..storage.image_tensors import to_image
from .pairs import EditPairs

_SIDE = 128


def thumbnail(pairs: EditPairs) -> Image.Image:
    """Before and after of the first pair, side by side."""
    halves = [to_image(image).resize((_SIDE, _SIDE)) for image in (pairs[0].before, pairs[0].after)]
    both = Image.new("RGB", (2 * _SIDE, _SIDE))
    for index, half in enumerate(halves):
        both.paste(half, (index * _SIDE, 0))
    return both
