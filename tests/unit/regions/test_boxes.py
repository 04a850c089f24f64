"""Boxes, and masks made from them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instructbrush.core.errors import RegionError
from instructbrush.core.regions.boxes import Box, bounding_box_mask, box_mask, check_boxes, clip_boxes
from instructbrush.core.regions.cleaning import CleanSettings, clean_mask
from instructbrush.tests.support.mask_samples import (
    LAW,
    TWO_FRAGMENTS,
    drawn,
)


def test_box_mask_covers_every_pixel_it_touches():
    whole = box_mask([Box(1, 0, 3, 2)], 3, 5)
    assert torch.equal(whole, drawn(".##..", ".##..", "....."))
    assert torch.equal(box_mask([Box(1.9, 0.5, 2.1, 1.5)], 3, 5), whole)
    assert torch.equal(box_mask([Box(0, 0, 1, 1), Box(4, 2, 5, 3)], 3, 5), drawn("#....", ".....", "....#"))
    assert torch.equal(box_mask([Box(0, 0, 5, 3)], 3, 5), torch.ones(3, 5))
    assert torch.equal(box_mask([], 3, 5), torch.zeros(3, 5))


@LAW
@given(st.integers(0, 10), st.integers(0, 10), st.integers(1, 10), st.integers(1, 10))
def test_box_mask_has_the_area_of_the_box(left: int, top: int, width: int, height: int):
    assert box_mask([Box(left, top, left + width, top + height)], 20, 20).sum() == width * height


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (
            Box(10, 5, 10, 20),
            "Box 2 (10, 5, 10, 20) (left, top, right, bottom) in an image of 64 x 48 is empty. Its right "
            "must lie beyond its left, and its bottom beyond its top.",
        ),
        (
            Box(10, 20, 20, 5),
            "Box 2 (10, 20, 20, 5) (left, top, right, bottom) in an image of 64 x 48 is empty.",
        ),
        (
            Box(0, 0, math.nan, 5),
            "Box 2 (0, 0, nan, 5) (left, top, right, bottom) in an image of 64 x 48 is not finite. Give it "
            "four numbers in pixels.",
        ),
        (
            Box(0, 0, math.inf, 5),
            "Box 2 (0, 0, inf, 5) (left, top, right, bottom) in an image of 64 x 48 is not finite.",
        ),
        (
            Box(-5, 0, 20, 20),
            "Box 2 (-5, 0, 20, 20) (left, top, right, bottom) in an image of 64 x 48 leaves the image. Give "
            "pixels of this image: left and top from 0, right to 64, bottom to 48.",
        ),
        (
            Box(0, 0, 20, 49),
            "Box 2 (0, 0, 20, 49) (left, top, right, bottom) in an image of 64 x 48 leaves the image.",
        ),
        (
            Box(70, 50, 80, 60),
            "Box 2 (70, 50, 80, 60) (left, top, right, bottom) in an image of 64 x 48 leaves the image.",
        ),
    ],
)
def test_rejects_invalid_boxes(box: Box, message: str):
    for check in (lambda boxes: check_boxes(boxes, 64, 48), lambda boxes: box_mask(boxes, 48, 64)):
        with pytest.raises(RegionError) as caught:
            check([Box(0, 0, 64, 48), box])
        assert str(caught.value).startswith(message)


def test_clips_boxes_slightly_outside_and_leaves_others():
    near = Box(-2, 0.5, 65, 49)
    foreign = Box(0, 0, 512, 40)
    beside = Box(65, 2, 66, 4)
    assert clip_boxes([near, foreign, beside], 64, 48) == [Box(0, 0.5, 64, 48), foreign, beside]


def test_bounding_box_mask_frames_all_or_each_fragment():
    whole = bounding_box_mask(TWO_FRAGMENTS)
    assert whole.sum() == 5 * 9 and whole[1:, 1:].all()
    each = bounding_box_mask(TWO_FRAGMENTS, each_fragment=True)
    assert each.sum() == 16 and torch.equal(each, clean_mask(TWO_FRAGMENTS, CleanSettings(shape="box")).mask)
    batch = bounding_box_mask(torch.stack([TWO_FRAGMENTS, torch.zeros_like(TWO_FRAGMENTS)]))
    assert torch.equal(batch[0], whole) and not batch[1].any()
    assert not bounding_box_mask(drawn("+..")).any() and bounding_box_mask(drawn("+.."), threshold=0.1).any()
