"""Sizes of images: aspect ratios, the crop that VAEs make, and resizing."""

from torch import Tensor
from torch.nn import functional

# Pixels of an image's side per element of the latent's side.
VAE_STRIDE = 8

Size = tuple[int, int]
"""Height and width in pixels."""


def same_ratio(first: Size, second: Size) -> bool:
    """Whether two sizes have the same aspect ratio, up to rounding.

    If one size is a scaled version of the other, they differ by less than a pixel of the smaller one.
    """
    height, width = first
    rows, columns = second
    return abs(columns * height - width * rows) < max(height, width, rows, columns)


def vae_crop(height: int, width: int, stride: int = VAE_STRIDE) -> tuple[int, int, int, int]:
    """Returns what ComfyUI's VAEs and InstructPixToPixConditioning keep of an image.

    That is its center, with sides that are multiples of the VAE's stride.

    Returns:
        top, left, height, width in pixels.
    """
    top = height % stride // 2
    left = width % stride // 2
    return top, left, height - height % stride, width - width % stride


def vae_cropped(image: Tensor) -> Tensor:
    """Crops an image [H, W, C] or [H, W] as ``vae_crop`` says. Returns the same tensor if nothing is cut."""
    top, left, height, width = vae_crop(*image.shape[:2])
    return image if (height, width) == image.shape[:2] else image[top : top + height, left : left + width]


def size_before_vae_crop(ratio: Size, cropped: Size, stride: int = VAE_STRIDE) -> Size | None:
    """Returns a size with the aspect ratio of ``ratio`` that ``vae_crop`` reduces to ``cropped``, or None."""
    for width in range(cropped[1], cropped[1] + stride):
        height = round(ratio[0] * width / ratio[1])
        if vae_crop(height, width, stride)[2:] == cropped:
            return height, width
    return None


def scaled(image: Tensor, size: Size) -> Tensor:
    """Scales an image [H, W, C] in 0..1 to a size. Returns the same tensor if it has this size."""
    if image.shape[:2] == size:
        return image
    channels_first = image.movedim(-1, 0)[None]
    resized = functional.interpolate(channels_first, size, mode="bicubic", antialias=True)
    return resized[0].movedim(0, -1).clamp(0, 1)


def covering(image: Tensor, size: Size) -> Tensor:
    """Scales an image [H, W, C] to cover a size, and crops it to that size at its center."""
    factor = max(size[0] / image.shape[0], size[1] / image.shape[1])
    height = max(round(image.shape[0] * factor), size[0])
    width = max(round(image.shape[1] * factor), size[1])
    top = (height - size[0]) // 2
    left = (width - size[1]) // 2
    return scaled(image, (height, width))[top : top + size[0], left : left + size[1]]


def padded(image: Tensor, size: Size) -> Tensor:
    """Scales an image [H, W, C] to fit into a size, centers it, and repeats its border pixels around it."""
    factor = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height = max(min(round(image.shape[0] * factor), size[0]), 1)
    width = max(min(round(image.shape[1] * factor), size[1]), 1)
    top = (size[0] - height) // 2
    left = (size[1] - width) // 2
    margins = (left, size[1] - width - left, top, size[0] - height - top)
    channels_first = scaled(image, (height, width)).movedim(-1, 0)[None]
    return functional.pad(channels_first, margins, mode="replicate")[0].movedim(0, -1)
