"""Pasting edits into their originals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instructbrush.core.errors import RegionError
from instructbrush.core.regions.boxes import Box, box_mask
from instructbrush.core.regions.paste_back import paste_back
from instructbrush.core.storage.image_sizes import vae_crop
from instructbrush.tests.support.mask_samples import (
    LAW,
    random_images,
    random_mask,
)


def pasted_by_loop(edited: Tensor, original: Tensor, mask: Tensor, top: int, left: int) -> Tensor:
    """Pastes back pixel by pixel, without feathering."""
    result = original.clone()
    for index in np.ndindex(*edited.shape[:3]):
        image, row, column = index
        weight = float(mask[image, top + row, left + column])
        old, new = original[image, top + row, left + column], edited[index]
        result[image, top + row, left + column] = (
            old if weight == 0 else new if weight == 1 else old + weight * (new - old)
        )
    return result


@settings(LAW, max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 2), st.integers(8, 20), st.integers(8, 20))
def test_is_bit_identical_to_the_original_outside_and_to_the_edit_inside(
    seed: int, batch: int, height: int, width: int
):
    top, left, rows, columns = vae_crop(height, width)
    original = random_images(seed, batch, height, width)
    edited = random_images(seed + 1, batch, rows, columns)
    mask = random_mask(seed, batch, height, width, soft=True)
    pasted = paste_back(edited, original, mask)
    expected = pasted_by_loop(edited, original, mask, top, left)
    exact = (mask == 0) | (mask == 1)
    assert torch.equal(pasted[exact], expected[exact]) and torch.allclose(pasted, expected, atol=1e-6)
    assert torch.equal(paste_back(edited, original, torch.zeros(height, width)), original)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 64), (71, 67), (64, 79)])
def test_puts_a_crop_back_where_comfyui_cut_it(height: int, width: int):
    original = random_images(0, 1, height, width)
    # ComfyUI's VAE.vae_encode_crop_pixels.
    cut = original
    for dimension, side in ((1, height), (2, width)):
        cut = cut.narrow(dimension, side % 8 // 2, side // 8 * 8)
    assert torch.equal(paste_back(cut, original, torch.ones(height, width)), original)
    marked = paste_back(cut + 1, original, torch.ones(height, width))
    top, left, rows, columns = vae_crop(height, width)
    changed = (marked != original).any(-1)[0]
    assert changed.sum() == rows * columns and changed[top : top + rows, left : left + columns].all()
    # A mask with the crop's size has the crop's position.
    assert torch.equal(paste_back(cut + 1, original, torch.ones(rows, columns)), marked)


def test_keeps_the_originals_transparency():
    original = torch.cat([random_images(0, 2, 71, 66), random_images(1, 2, 71, 66)[..., :1]], dim=-1)
    edited = random_images(2, 2, 64, 64)
    mask = random_mask(3, 2, 71, 66, soft=True)
    pasted = paste_back(edited, original, mask)
    assert torch.equal(pasted[..., 3], original[..., 3])
    assert torch.equal(pasted[..., :3], paste_back(edited, original[..., :3], mask))


def test_keeps_nan_of_the_edit_out_of_the_original():
    original = random_images(0, 1, 8, 8)
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    pasted = paste_back(torch.full_like(original, math.nan), original, mask)
    assert torch.equal(pasted[:, 4:], original[:, 4:]) and pasted[:, :4].isnan().all()


def test_uses_one_original_and_one_mask_for_a_batch():
    original, edited = random_images(0, 1, 8, 8), random_images(1, 3, 8, 8)
    mask = box_mask([Box(0, 0, 4, 8)], 8, 8)
    pasted = paste_back(edited, original, mask)
    assert torch.equal(pasted[:, :, :4], edited[:, :, :4]) and torch.equal(
        pasted[:, :, 4:], original[:, :, 4:].repeat(3, 1, 1, 1)
    )


def test_feathers_inwards_except_at_the_images_border():
    original, edited = torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8, 3)
    pasted = paste_back(edited, original, box_mask([Box(0, 0, 5, 8)], 8, 8), feather=3)
    assert pasted[0, 0, :, 0].tolist() == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0, 0, 0])
    assert torch.equal(
        paste_back(edited, original, torch.full((8, 8), 0.5), feather=3), torch.full_like(original, 0.5)
    )
    # The border that the edit lacks counts as outside.
    cropped = paste_back(torch.ones(1, 8, 8, 3), torch.zeros(1, 8, 12, 3), torch.ones(8, 12), feather=1)
    assert cropped[0, 0, :, 0].tolist() == [0, 0, 0.5, 1, 1, 1, 1, 1, 1, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("edited", "original", "mask", "feather", "message"),
    [
        (
            (1, 64, 64, 3),
            (1, 100, 64, 3),
            (100, 64),
            0,
            "Paste back: the edited image is 64 x 64, the original 64 x 100. They must be of one size (sides "
            "cropped to multiples of 8 are put back): scale one to the other first.",
        ),
        (
            (1, 72, 64, 3),
            (1, 71, 64, 3),
            (71, 64),
            0,
            "Paste back: the edited image is 64 x 72, the original 64 x 71.",
        ),
        (
            (2, 8, 8, 3),
            (3, 8, 8, 3),
            (8, 8),
            0,
            "Paste back: 2 edited images but 3 originals. Give the original of each, or one for all.",
        ),
        (
            (2, 8, 8, 3),
            (1, 8, 8, 3),
            (3, 8, 8),
            0,
            "Mask: 3 masks do not fit 2 images. Give one for each image, or one for all.",
        ),
        (
            (1, 8, 8, 3),
            (1, 8, 8, 3),
            (16, 8),
            0,
            "Mask: it is 8 x 16, the image 8 x 8, which is another aspect ratio.",
        ),
        (
            (1, 8, 8, 4),
            (1, 8, 8, 3),
            (8, 8),
            0,
            "Paste back: the edited images have the shape (1, 8, 8, 4), they must have [batch, height, "
            "width, 3].",
        ),
        (
            (1, 8, 8, 3),
            (8, 8, 3),
            (8, 8),
            0,
            "Paste back: the original images have the shape (8, 8, 3), they must have [batch, height, width, "
            "3 or 4].",
        ),
        ((1, 8, 8, 3), (1, 8, 8, 3), (8, 8), -1, "Paste back: feather is -1; it must be 0 or more pixels."),
    ],
)
def test_rejects_images_that_do_not_match(
    edited: tuple, original: tuple, mask: tuple, feather: int, message: str
):
    with pytest.raises(RegionError) as caught:
        paste_back(torch.zeros(edited), torch.zeros(original), torch.zeros(mask), feather)
    assert str(caught.value).startswith(message)
