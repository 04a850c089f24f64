"""Checks of masks, and scaling to images."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from instructbrush.core.errors import RegionError
from instructbrush.core.regions.masks import check_mask, fit_mask, mask_batch
from instructbrush.tests.support.mask_samples import (
    random_mask,
)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(4), "Mask: its shape is (4,), a mask has [height, width] or [batch, height, width]."),
        (
            torch.zeros(1, 1, 4, 4),
            "Mask: its shape is (1, 1, 4, 4), a mask has [height, width] or [batch, height, width].",
        ),
        (
            torch.zeros(0, 4, 4),
            "Mask: it holds no mask (its shape is (0, 4, 4)). Perhaps nothing was found: connect a mask "
            "that holds a region.",
        ),
        (
            torch.full((4, 4), math.nan),
            "Mask holds values that are not finite. Check the node that made it: a mask runs from 0 "
            "(stays) to 1 (is edited).",
        ),
        (torch.full((4, 4), math.inf), "Mask holds values that are not finite."),
        (
            torch.full((4, 4), 255),
            "Mask holds values from 255 to 255. Scale them: a mask runs from 0 (stays) to 1 (is edited).",
        ),
        (torch.tensor([[-1.0, 1.0]]), "Mask holds values from -1 to 1."),
    ],
)
def test_rejects_invalid_masks(mask: Tensor, message: str):
    with pytest.raises(RegionError) as caught:
        check_mask(mask)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        (None, (5, 7)),
        (None, (2, 5, 7)),
        (1, (2, 1, 5, 7)),
        (3, (2, 5, 7, 1)),
        (3, (2, 5, 7, 3)),
        (3, (2, 5, 7, 4)),
        (1, (1, 1, 7, 1)),
    ],
)
def test_accepts_every_shape_that_nodes_use(axis: int | None, shape: tuple[int, ...]):
    sizes = [side for place, side in enumerate(shape) if place != axis]
    plain = random_mask(0, *([1, *sizes] if len(sizes) == 2 else sizes), soft=True)
    mask = plain.reshape(sizes) if axis is None else plain.unsqueeze(axis).expand(shape).clone()
    if shape[-1] == 4:
        mask[..., 3] = 0.3
    assert torch.equal(mask_batch(mask), plain)
    assert torch.equal(fit_mask(mask, *plain.shape[1:], len(plain)), plain)


def test_rejects_images_with_colors_and_other_shapes():
    image = torch.zeros(1, 4, 4, 3)
    image[..., 0] = 0.5
    with pytest.raises(
        RegionError,
        match=r"^Mask: it is a colored image\. A mask is white where the edit acts and black elsewhere: "
        r"connect a MASK\.$",
    ):
        mask_batch(image)
    with pytest.raises(
        RegionError,
        match=r"^Mask: its shape is \(1, 2, 4, 5\), a mask has \[height, width\] or \[batch, height, "
        r"width\]\.",
    ):
        mask_batch(torch.zeros(1, 2, 4, 5))
    with pytest.raises(RegionError, match=r"^Mask: it holds no mask"):
        mask_batch(torch.zeros(0, 4, 4, 3))


def test_returns_a_valid_mask_without_a_copy():
    mask = random_mask(0, 4, 4, soft=True)
    assert check_mask(mask) is mask
    assert check_mask(mask > 0.5).dtype == torch.float32
    assert torch.equal(check_mask(torch.tensor([[-1e-4, 1.0001]])), torch.tensor([[0.0, 1.0]]))


def test_keeps_a_fitting_mask_and_repeats_a_single_one():
    mask = random_mask(0, 2, 6, 8)
    assert fit_mask(mask, 6, 8, 2) is mask
    assert torch.equal(fit_mask(mask[0], 6, 8, 3), mask[:1].repeat(3, 1, 1))


def test_scales_masks():
    small = torch.zeros(1, 4, 4)
    small[:, :, :2] = 1
    large = fit_mask(small, 16, 16, 1)
    assert (
        large.shape == (1, 16, 16)
        and (large[..., :6] == 1).all()
        and (large[..., 10:] == 0).all()
        and 0.4 < large[0, 0, 7:9].mean() < 0.6
    )
    assert torch.allclose(fit_mask(large, 4, 4, 1), small, atol=0.2)
    # Rounded sides count as the same aspect ratio: the mask of a latent for 515 x 387.
    assert fit_mask(torch.ones(48, 64), 387, 515, 1).shape == (1, 387, 515)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        (
            (1, 64, 64),
            (64, 70, 1),
            "Mask: it is 64 x 64, the image 70 x 64, which is another aspect ratio. Make the mask for this "
            "image, or crop it as the image was cropped.",
        ),
        ((48, 64), (64, 48, 1), "Mask: it is 64 x 48, the image 48 x 64, which is another aspect ratio."),
        ((2, 8, 8), (8, 8, 3), "Mask: 2 masks do not fit 3 images. Give one for each image, or one for all."),
    ],
)
def test_rejects_masks_that_do_not_fit(shape: tuple, size: tuple, message: str):
    with pytest.raises(RegionError) as caught:
        fit_mask(torch.ones(shape), *size)
    assert str(caught.value).startswith(message)


def test_recognizes_the_default_mask_of_load_image():
    for size in ((64, 70), (128, 128), (48, 64)):
        with pytest.raises(RegionError) as caught:
            fit_mask(torch.zeros(1, 64, 64), *size, 1)
        assert str(caught.value) == (
            "Mask: no mask was painted. It is the black one of 64 x 64 that Load Image gives for an image "
            f"without transparency; this image is {size[1]} x {size[0]}. Paint one (right-click Load Image, "
            "Open in MaskEditor), or connect another mask."
        )
    # A black mask with the image's size or ratio is valid.
    assert (
        not fit_mask(torch.zeros(1, 64, 64), 64, 64, 1).any()
        and not fit_mask(torch.zeros(1, 32, 32), 128, 128, 1).any()
    )


def test_importing_masks_does_not_import_scipy():
    code = (
        "import sys, instructbrush.core.regions.boxes, instructbrush.core.regions.cleaning; "
        "print([m for m in ('scipy', 'skimage') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
