"""Reads the mask of a pair: white where learning acts."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from torch import Tensor

from ..errors import PairError, RegionError
from ..regions.mask_files import read_mask
from ..storage.image_files import OpenedImage
from ..storage.image_sizes import same_ratio
from .pair_lists import ListedPair
from .table_images import ImagePlace, readable


def mask_like(listed: ListedPair, file: ImagePlace, opened: Sequence[OpenedImage]) -> tuple[OpenedImage, int]:
    """The mask of a pair as a gray image, at the decoded size of the image whose aspect ratio it has.

    Args:
        listed: the pair.
        file: its mask.
        opened: the images before and after.

    Returns:
        The mask, and the index of that image.

    Raises:
        PairError: the mask cannot be read or has another aspect ratio than both images.
    """
    try:
        mask = read_mask(readable(file), file.name)
    except RegionError as error:
        raise PairError(f"Pair '{listed.name}': {error}") from error
    height, width = mask.shape
    ratios = [same_ratio((width, height), each.size) for each in opened]
    side = ratios.index(True) if any(ratios) else None
    if side is None:
        raise PairError(
            f"Pair '{listed.name}': its mask '{file.name}' is {width} x {height}, which is another aspect "
            "ratio than its images have. Draw the mask on one of the two images."
        )
    image = Image.fromarray((mask * 255).round().byte().numpy())
    image = image.resize(opened[side].image.size, Image.Resampling.LANCZOS).convert("RGB")
    return replace(opened[side], image=image, remarks=()), side


def check_white(listed: ListedPair, mask: Tensor) -> Tensor:
    """Returns the mask of a pair at its working size.

    Raises:
        PairError: the mask is black everywhere.
    """
    if not mask.any():
        raise PairError(
            f"Pair '{listed.name}': its mask is black everywhere, so there is nothing to learn. Paint white "
            "where the edit is, or remove the mask."
        )
    return mask
