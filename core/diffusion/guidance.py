"""Dual classifier-free guidance of InstructPix2Pix (Eq. 3)."""

from typing import NamedTuple

from torch import Tensor


class Branches(NamedTuple):
    """Which predictions of Eq. 3 count, in the order in which the engines compute them."""

    full: bool
    image: bool
    none: bool


def needed_branches(image_scale: float, text_scale: float) -> Branches:
    """The predictions whose coefficient in Eq. 3 is not zero; the others need not be computed.

    Eq. 3 is ``(1 - s_I) e(0,0) + (s_I - s_T) e(I,0) + s_T e(I,T)``.
    """
    return Branches(full=text_scale != 0, image=image_scale != text_scale, none=image_scale != 1)


def dual_guidance(
    none: Tensor | None, image: Tensor | None, full: Tensor | None, image_scale: float, text_scale: float
) -> Tensor:
    """Eq. 3: ``e(0,0) + s_I (e(I,0) - e(0,0)) + s_T (e(I,T) - e(I,0))``.

    The coefficients sum to one. Predicted noise and predicted clean latents therefore give the same result.

    Args:
        none: prediction with neither image nor instruction, [B, C, h, w].
        image: prediction with the image and the empty instruction.
        full: prediction with the image and the instruction.
        image_scale: s_I. Values below 1 are valid, because all three branches count then.
        text_scale: s_T.

    Any prediction may be None if ``needed_branches`` says that it does not count.

    Raises:
        ValueError: a prediction that counts is None.
    """
    if none is not None and image is not None and full is not None:
        return none + image_scale * (image - none) + text_scale * (full - image)
    terms = [(1 - image_scale, none), (image_scale - text_scale, image), (text_scale, full)]
    if any(prediction is None and coefficient != 0 for coefficient, prediction in terms):
        raise ValueError(f"guidance: a branch is missing that s_T {text_scale} and s_I {image_scale} need")
    given = [(coefficient, prediction) for coefficient, prediction in terms if prediction is not None]
    first = given[0][1]
    if len(given) == 1:
        return first
    # Two coefficients that sum to one.
    coefficient, second = given[1]
    return first + coefficient * (second - first)
