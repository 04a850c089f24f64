"""Dual classifier-free guidance of InstructPix2Pix (Eq. 3)."""

from torch import Tensor


def dual_guidance(none: Tensor, image: Tensor, full: Tensor, image_scale: float, text_scale: float) -> Tensor:
    """Eq. 3: ``e(0,0) + s_I (e(I,0) - e(0,0)) + s_T (e(I,T) - e(I,0))``.

    The coefficients sum to one. Predicted noise and predicted clean latents therefore give the same result.

    Args:
        none: prediction with neither image nor instruction, [B, C, h, w].
        image: prediction with the image and the empty instruction.
        full: prediction with the image and the instruction.
        image_scale: s_I. Values below 1 are valid, because all three branches always count.
        text_scale: s_T.
    """
    return none + image_scale * (image - none) + text_scale * (full - image)
