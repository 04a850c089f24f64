"""How close an edit comes to the truth, and whether it goes where the training pairs go. Images are [N, H, W, 3] in 0..1 throughout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import EvaluationError

_MARGIN = 5
"""Half of SSIM's window."""


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, ``10 log10(1 / MSE)`` over all pixels and channels; infinite when equal.

    Returns:
        fp32 [N].
    """
    compare: Any = _torchmetrics().peak_signal_noise_ratio
    _check(images, truth)
    return compare(_planes(images), _planes(truth), data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004): Gaussian window of sigma 1.5 over 11 x 11 pixels, K1 .01, K2 .03, the mean over
    pixels whose window lies inside the image, and over red, green and blue.

    Returns:
        fp32 [N], 1 when equal.

    Raises:
        EvaluationError: a side is below 16 pixels.
    """
    compare: Any = _torchmetrics().structural_similarity_index_measure
    _check(images, truth)
    _, everywhere = compare(
        _planes(images), _planes(truth), data_range=1.0, reduction="none", return_full_image=True
    )
    # The package's own mean also counts the margin, where windows see reflected pixels.
    return (
        everywhere[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].mean(dim=(1, 2, 3), dtype=torch.float64).float()
    )


def l1_distance(images: Tensor, truth: Tensor) -> Tensor:
    """MagicBrush's L1: the mean absolute difference of pixel values in 0..1 over all pixels and channels of each image, fp32 [N]."""
    _check(images, truth)
    return (images.float() - truth.float()).abs().mean((1, 2, 3))


def l2_distance(images: Tensor, truth: Tensor) -> Tensor:
    """MagicBrush's L2: the mean squared difference of pixel values in 0..1 (no root) over all pixels and channels of each image, fp32 [N]."""
    _check(images, truth)
    return (images.float() - truth.float()).square().mean((1, 2, 3))


def direction_distance(edits: Tensor, examples: Tensor) -> float:
    """InstructBrush's Direction, 0..2, lower is better (section 6 and supplement A)::

        1 - cos(mean over tests of E(out) - E(in), mean over training pairs of E(after) - E(before))

    An edit that changes nothing has no direction: it scores 1.

    Args:
        edits: E(out) - E(in) of every test image, [N, P], of normalised features.
        examples: E(after) - E(before) of every training pair, [M, P].
    """
    return 1 - float(functional.cosine_similarity(edits.mean(0), examples.mean(0), dim=0))


def image_similarity(inputs: Tensor, outputs: Tensor) -> Tensor:
    """InstructPix2Pix's consistency with the input image: cos(E(in), E(out)) of each, [N]. Arguments are image features [N, P].

    With the true result for the input it is MagicBrush's CLIP-I, and its DINO on features of a DINO.
    """
    return functional.cosine_similarity(inputs, outputs, dim=-1)


def caption_similarity(captions: Tensor, outputs: Tensor) -> Tensor:
    """MagicBrush's CLIP-T and Emu Edit's CLIP-out: cos(E(caption after), E(out)) of each, [N]. Arguments are text and image features [N, P]."""
    return functional.cosine_similarity(captions, outputs, dim=-1)


def direction_similarity(
    inputs: Tensor, outputs: Tensor, captions_before: Tensor, captions_after: Tensor
) -> Tensor:
    """InstructPix2Pix's agreement with the captions, Emu Edit's CLIP-dir: cos(E(out) - E(in), E(caption after) - E(caption before)) of each, [N].

    Arguments are normalised features [N, P]; images are given to CLIP in 0..1, as it expects (the published evaluation gives -1..1).
    """
    return functional.cosine_similarity(outputs - inputs, captions_after - captions_before, dim=-1)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def quantised(images: Tensor) -> Tensor:
    """The images as an 8-bit file would keep them, still in 0..1: what is measured is what can be saved."""
    return (images.detach().float().cpu().clamp(0, 1) * 255).round() / 255


def _planes(images: Tensor) -> Tensor:
    return images.movedim(-1, 1).float()


def _check(images: Tensor, truth: Tensor) -> None:
    if images.shape != truth.shape or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise EvaluationError(
            f"Evaluation: images {tuple(images.shape)} cannot be compared with the truth {tuple(truth.shape)}. "
            "Give two batches of equal length and size, [batch, height, width, 3]."
        )
    if min(images.shape[1:3]) < 16:
        raise EvaluationError(
            f"Evaluation: images of {images.shape[2]} x {images.shape[1]} pixels are too small, each side needs at least 16."
        )


def _torchmetrics() -> Any:
    try:
        import torchmetrics.functional.image as image
    except ImportError as error:
        raise EvaluationError(
            "Evaluation: PSNR and SSIM are computed by torchmetrics, which is not installed. Run: pip install torchmetrics"
        ) from error
    return image
