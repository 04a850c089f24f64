"""Metrics of edited images against ground truth and captions. Images are [N, H, W, 3] in 0..1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import EvaluationError

# Half of SSIM's window of 11 pixels.
_MARGIN = 5


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of each image in dB, fp32 [N]; infinite for equal images.

    ``10 log10(1 / MSE)`` over all pixels and channels.
    """
    compare: Any = _torchmetrics().peak_signal_noise_ratio
    _check(images, truth)
    return compare(_planes(images), _planes(truth), data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Returns the structural similarity of each image (Wang et al. 2004), fp32 [N]; 1 for equal images.

    Gaussian window of sigma 1.5 over 11 x 11 pixels, K1 = 0.01, K2 = 0.03. The mean covers the color
    channels and the pixels whose window lies inside the image.

    Raises:
        EvaluationError: a side has fewer than 16 pixels.
    """
    compare: Any = _torchmetrics().structural_similarity_index_measure
    _check(images, truth)
    _, everywhere = compare(
        _planes(images), _planes(truth), data_range=1.0, reduction="none", return_full_image=True
    )
    # The mean of torchmetrics includes the margin, where windows contain reflected pixels.
    return (
        everywhere[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].mean(dim=(1, 2, 3), dtype=torch.float64).float()
    )


def l1_distance(images: Tensor, truth: Tensor) -> Tensor:
    """Returns MagicBrush's L1, the mean absolute difference over pixels and channels, fp32 [N]."""
    _check(images, truth)
    return (images.float() - truth.float()).abs().mean((1, 2, 3))


def l2_distance(images: Tensor, truth: Tensor) -> Tensor:
    """Returns MagicBrush's L2, the mean squared difference (without a root), fp32 [N]."""
    _check(images, truth)
    return (images.float() - truth.float()).square().mean((1, 2, 3))


def direction_distance(edits: Tensor, examples: Tensor) -> float:
    """Returns InstructBrush's Direction (section 6 and supplement A), 0..2, lower is better::

        1 - cos(mean over tests of E(out) - E(in), mean over training pairs of E(after) - E(before))

    An edit that changes nothing scores 1.

    Args:
        edits: E(out) - E(in) of every test image, [N, P], from normalized features.
        examples: E(after) - E(before) of every training pair, [M, P].
    """
    return 1 - float(functional.cosine_similarity(edits.mean(0), examples.mean(0), dim=0))


def image_similarity(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Returns cos(E(in), E(out)) of each image, [N], from image features [N, P].

    With the input image this is InstructPix2Pix's image consistency. With the ground truth instead of the
    input it is MagicBrush's CLIP-I, or its DINO metric on DINO features.
    """
    return functional.cosine_similarity(inputs, outputs, dim=-1)


def caption_similarity(captions: Tensor, outputs: Tensor) -> Tensor:
    """Returns cos(E(caption after), E(out)) of each image, [N]: MagicBrush's CLIP-T, Emu Edit's CLIP-out.

    Arguments are text and image features [N, P].
    """
    return functional.cosine_similarity(captions, outputs, dim=-1)


def direction_similarity(
    inputs: Tensor, outputs: Tensor, captions_before: Tensor, captions_after: Tensor
) -> Tensor:
    """Returns cos(E(out) - E(in), E(caption after) - E(caption before)) of each image, [N].

    InstructPix2Pix's agreement with the captions, Emu Edit's CLIP-dir. Arguments are normalized features
    [N, P]. CLIP gets images in 0..1, as it expects; InstructPix2Pix's published evaluation gives -1..1.
    """
    return functional.cosine_similarity(outputs - inputs, captions_after - captions_before, dim=-1)


def visual_similarity(edits: Tensor, examples: Tensor) -> Tensor:
    """Returns Visii's Visual CLIP similarity of each image (section 4.1), [N], -1..1, higher is better::

        cos(E(out) - E(in), mean over example pairs of E(after) - E(before))

    The paper prints 1 - cosine, where cosine is the cosine *distance*, as in its Eq. 3. An edit that changes
    nothing scores 0.

    Args:
        edits: E(out) - E(in) of every test image, [N, P], from normalized features.
        examples: E(after) - E(before) of every example pair, [M, P].
    """
    return functional.cosine_similarity(edits, examples.mean(0, keepdim=True), dim=-1)


def mean(values: Sequence[float]) -> float:
    """Returns the arithmetic mean; nan for an empty sequence, and of infinities of both signs."""
    if {math.inf, -math.inf} <= set(values):
        return math.nan
    return math.fsum(values) / len(values) if values else math.nan


def quantized(images: Tensor) -> Tensor:
    """Rounds images to 8-bit values in 0..1, so that the measured image equals the saved one."""
    return (images.detach().float().cpu().clamp(0, 1) * 255).round() / 255


def _planes(images: Tensor) -> Tensor:
    return images.movedim(-1, 1).float()


def _check(images: Tensor, truth: Tensor) -> None:
    if images.shape != truth.shape or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise EvaluationError(
            f"Evaluation: images {tuple(images.shape)} cannot be compared with the truth "
            f"{tuple(truth.shape)}. Give two batches of equal length and size, [batch, height, width, 3]."
        )
    if min(images.shape[1:3]) < 16:
        raise EvaluationError(
            f"Evaluation: images of {images.shape[2]} x {images.shape[1]} pixels are too small, "
            "each side needs at least 16."
        )


def _torchmetrics() -> Any:
    try:
        import torchmetrics.functional.image as image
    except ImportError as error:
        raise EvaluationError(
            "Evaluation: PSNR and SSIM need the torchmetrics package, which is not installed. "
            "Run: pip install torchmetrics"
        ) from error
    return image
