"""Soft masks (Eq. 2) and unions of masks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from instructbrush.core.errors import RegionError
from instructbrush.core.regions.boxes import Box, box_mask
from instructbrush.core.regions.masks import combine_masks, soft_mask
from instructbrush.tests.support.mask_samples import (
    LAW,
    SIZES,
    drawn,
    random_mask,
)


def test_matches_the_example_of_eq_2():
    fine = drawn(".....", "..#..", ".....")
    box = drawn(".....", ".###.", ".....")
    assert soft_mask(fine, box, 0.25).tolist() == [[0] * 5, [0, 0.25, 1, 0.25, 0], [0] * 5]
    # Outside the box the fine mask is unchanged.
    assert soft_mask(drawn("##...")[None], drawn(".##.."), 0.5).tolist() == [[[1, 1, 0.5, 0, 0]]]


@LAW
@given(st.integers(0, 1000), st.integers(1, 3), st.booleans(), SIZES, SIZES, st.floats(0, 1))
def test_matches_eq_2_for_binary_masks(
    seed: int, batch: int, single: bool, height: int, width: int, s: float
):
    fine = random_mask(seed, batch, height, width)
    box = random_mask(seed + 1, 1 if single else batch, height, width)
    made = soft_mask(fine, box, s)
    expected = torch.where((box == 1) & (fine == 0), torch.tensor(s, dtype=torch.float32), fine)
    assert made.shape == fine.shape and torch.equal(made, expected)


@LAW
@given(st.integers(0, 1000), st.floats(0, 1))
def test_soft_edges_fall_off_to_s(seed: int, s: float):
    fine = random_mask(seed, 8, 8, soft=True)
    box = random_mask(seed + 1, 8, 8)
    made = soft_mask(fine, box, s)
    assert (
        (made >= fine).all()
        and (made[box == 1] >= torch.tensor(s)).all()
        and torch.equal(made[box == 0], fine[box == 0])
    )


@pytest.mark.parametrize(
    ("fine", "box", "s", "message"),
    [
        (
            torch.zeros(4, 4),
            torch.zeros(4, 4),
            1.2,
            "Soft mask: s is 1.2; it must lie between 0 and 1. UltraEdit uses 0.2 to 0.8.",
        ),
        (
            torch.zeros(4, 4),
            torch.zeros(4, 4),
            math.nan,
            "Soft mask: s is nan; it must lie between 0 and 1. UltraEdit uses 0.2 to 0.8.",
        ),
        (
            torch.zeros(48, 64),
            torch.zeros(32, 16),
            0.5,
            "Soft mask: the fine mask is 64 x 48, the box mask 16 x 32. Make both as large as the image.",
        ),
        (
            torch.zeros(3, 4, 4),
            torch.zeros(2, 4, 4),
            0.5,
            "Soft mask: 3 fine masks and 2 box masks. Give a box mask for each fine mask, or one for all.",
        ),
        (
            torch.zeros(4, 4),
            torch.full((4, 4), 9.0),
            0.5,
            "Box mask holds values from 9 to 9. Scale them: a mask runs from 0 (stays) to 1 (is edited).",
        ),
    ],
)
def test_rejects_invalid_soft_masks(fine: Tensor, box: Tensor, s: float, message: str):
    with pytest.raises(RegionError) as caught:
        soft_mask(fine, box, s)
    assert str(caught.value) == message


def test_scales_masks_of_another_resolution():
    small = box_mask([Box(0, 0, 2, 4)], 4, 4)
    large = box_mask([Box(0, 0, 8, 16)], 16, 16)
    assert ((soft_mask(large, small, 0.5) - large).abs() <= 0.5).all() and torch.equal(
        soft_mask(large, small, 0.5)[:, :6], large[:, :6]
    )
    united = combine_masks([large, small[None]])
    assert (
        united.shape == (1, 16, 16)
        and torch.equal(united[..., :6], torch.ones(1, 16, 6))
        and not united[..., 10:].any()
    )


@LAW
@given(st.integers(0, 1000), st.lists(st.booleans(), min_size=1, max_size=4))
def test_union_is_the_maximum(seed: int, single: list[bool]):
    masks = [random_mask(seed + index, 1 if one else 3, 5, 7, soft=True) for index, one in enumerate(single)]
    expected = np.maximum.reduce([np.broadcast_to(mask.numpy(), (3, 5, 7)) for mask in masks])
    assert np.array_equal(np.broadcast_to(combine_masks(masks).numpy(), (3, 5, 7)), expected)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "Union of masks: no masks were given. Give at least one."),
        (
            [(4, 4), (4, 4), (8, 4)],
            "Union of masks: mask 1 is 4 x 4, mask 3 is 4 x 8. Make all as large as the image.",
        ),
        (
            [(2, 4, 4), (1, 4, 4), (3, 4, 4)],
            "Union of masks: mask 3 is a batch of 3, those before it of 2. Give the same number in each "
            "batch, or one mask.",
        ),
    ],
)
def test_rejects_invalid_unions(shapes: list, message: str):
    with pytest.raises(RegionError) as caught:
        combine_masks([torch.zeros(shape) for shape in shapes])
    assert str(caught.value) == message
