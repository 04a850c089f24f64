"""How much an edit changed: the filter of ReasonPix2Pix (Eq. 1) for pairs that show no edit."""

import math
from collections.abc import Sequence
from io import BytesIO

from torch import Tensor

from ..errors import PairError
from ..storage.image_files import decode_image
from .pairs import alike


def difference(before: Tensor, after: Tensor) -> float:
    """Returns the mean squared difference of two images [H, W, 3] of one size, both in 0..1.

    This is Eq. 1's squared norm per value, so that it does not depend on the size.
    """
    return (before.double() - after.double()).square().mean().item()


def difference_of_files(name: str, before: bytes, after: bytes) -> float:
    """Returns the ``difference`` of two encoded images, brought to one size as pairs are.

    Raises:
        PairError: an image cannot be read, or the aspect ratios differ; ``name`` is the pair's.
    """
    images = [decode_image(BytesIO(content), name) for content in (before, after)]
    first, second, _ = alike(name, images[0], images[1])
    return difference(first, second)


def unchanged(
    differences: Sequence[float], threshold: float | None = None, share: float | None = None
) -> tuple[bool, ...]:
    """Returns of each pair whether it changed too little (Eq. 1).

    Args:
        differences: results of ``difference``.
        threshold: tau: pairs below it changed too little.
        share: share of the pairs in 0..1, rounded down, that changed too little: those with the lowest
            differences. Of equal ones, the first.

    Raises:
        PairError: threshold or share is out of range, or not exactly one of them is given.
    """
    if (threshold is None) == (share is None):
        raise PairError("Filter of unchanged pairs: give either a threshold or a share.")
    if threshold is not None:
        if not (math.isfinite(threshold) and threshold >= 0):
            raise PairError(f"Filter of unchanged pairs: the threshold is {threshold}; it must be 0 or more.")
        return tuple(value < threshold for value in differences)
    assert share is not None
    if not 0 <= share <= 1:
        raise PairError(f"Filter of unchanged pairs: the share is {share}; it must lie between 0 and 1.")
    # A share such as 0.29 is slightly less than it says.
    count = math.floor(share * len(differences) + 1e-9)
    lowest = set(sorted(range(len(differences)), key=differences.__getitem__)[:count])
    return tuple(number in lowest for number in range(len(differences)))
