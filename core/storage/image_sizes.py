"""Sizes of images, and images brought to them."""

from torch import Tensor
from torch.nn import functional

VAE_STRIDE = 8
"""Pixels of an image's side for one of its latent's."""

Size = tuple[int, int]
"""Height and width in pixels."""


def same_ratio(first: Size, second: Size) -> bool:
    """Whether two sizes have one aspect ratio, but for rounding: sizes that come of each other by scaling differ by less than a pixel of the smaller one."""
    (height, width), (rows, columns) = first, second
    return abs(columns * height - width * rows) < max(height, width, rows, columns)


def vae_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """What ComfyUI's VAEs and InstructPixToPixConditioning leave of an image: its middle, with sides that are multiples of 8.

    Returns:
        top, left, height, width in pixels.
    """
    top, left = height % VAE_STRIDE // 2, width % VAE_STRIDE // 2
    return top, left, height - height % VAE_STRIDE, width - width % VAE_STRIDE


def cropped_as_by_vae(image: Tensor) -> Tensor:
    """The middle of an image [H, W, C] or [H, W] that :func:`vae_crop` leaves; the same tensor where that is all of it."""
    top, left, height, width = vae_crop(*image.shape[:2])
    return image if (height, width) == image.shape[:2] else image[top : top + height, left : left + width]


def before_vae(first: Size, left: Size) -> Size | None:
    """The size of an image of the first one's aspect ratio of which :func:`vae_crop` leaves the second; None where there is none."""
    for width in range(left[1], left[1] + VAE_STRIDE):
        height = round(first[0] * width / first[1])
        if vae_crop(height, width)[2:] == left:
            return height, width
    return None


def scaled(image: Tensor, size: Size) -> Tensor:
    """An image [H, W, C] in 0..1 at another size; the same tensor where it has it."""
    if image.shape[:2] == size:
        return image
    channels_first = image.movedim(-1, 0)[None]
    return (
        functional.interpolate(channels_first, size, mode="bicubic", antialias=True)[0]
        .movedim(0, -1)
        .clamp(0, 1)
    )


def covering(image: Tensor, size: Size) -> Tensor:
    """An image [H, W, C] scaled to cover a size, and cropped to it at its centre."""
    factor = max(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (
        max(round(side * factor), wanted) for side, wanted in zip(image.shape[:2], size, strict=True)
    )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return scaled(image, (height, width))[top : top + size[0], left : left + size[1]]


def padded(image: Tensor, size: Size) -> Tensor:
    """An image [H, W, C] scaled to fit into a size, in its middle; its outermost pixels are repeated around it."""
    factor = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (
        max(min(round(side * factor), wanted), 1) for side, wanted in zip(image.shape[:2], size, strict=True)
    )
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    around = (left, size[1] - width - left, top, size[0] - height - top)
    return functional.pad(scaled(image, (height, width)).movedim(-1, 0)[None], around, mode="replicate")[
        0
    ].movedim(0, -1)
