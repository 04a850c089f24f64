"""Dual classifier-free guidance of InstructPix2Pix."""

from torch import Tensor


def dual_guidance(none: Tensor, image: Tensor, full: Tensor, image_scale: float, text_scale: float) -> Tensor:
    """Eq. 3: ``e(0,0) + s_I (e(I,0) - e(0,0)) + s_T (e(I,T) - e(I,0))``.

    The coefficients sum to one, so the result is the same whether the three are predicted noise or predicted clean latents.

    Args:
        none: prediction with neither image nor instruction, [B, C, h, w].
        image: prediction with the image and the empty instruction.
        full: prediction with the image and the instruction.
        image_scale: s_I, also valid below 1 (all three branches always count).
        text_scale: s_T.
    """
    return none + image_scale * (image - none) + text_scale * (full - image)
