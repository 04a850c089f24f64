"""Checking and cleaning masks."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from instructbrush.core.errors import RegionError
from instructbrush.core.regions.boxes import Box, box_mask
from instructbrush.core.regions.cleaning import CleanSettings, clean_mask
from instructbrush.tests.support.mask_samples import (
    ANY_AREA,
    LAW,
    SIZES,
    TWO_FRAGMENTS,
    drawn,
    random_mask,
)


def test_accepts_a_good_mask_unchanged():
    cleaned = clean_mask(TWO_FRAGMENTS, CleanSettings())
    assert (
        cleaned.accepted
        and torch.equal(cleaned.mask, TWO_FRAGMENTS)
        and cleaned.fragments == 2
        and cleaned.area == pytest.approx(14 / 60)
    )
    assert cleaned.reason == "accepted: covers 23.3 % of the image in 2 fragments"
    assert (
        clean_mask(TWO_FRAGMENTS[:4], CleanSettings()).reason
        == "accepted: covers 25 % of the image in 1 fragment"
    )


def test_values_above_the_threshold_belong_to_the_mask():
    mask = drawn("#+..")
    assert clean_mask(mask, CleanSettings()).mask.tolist() == [[1, 0, 0, 0]]
    assert clean_mask(mask, CleanSettings(threshold=0.4)).mask.tolist() == [[1, 1, 0, 0]]


def test_fills_holes():
    cleaned = clean_mask(TWO_FRAGMENTS, CleanSettings(fill_holes=True))
    assert cleaned.mask[2].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert cleaned.mask.sum() == 16 and cleaned.area == pytest.approx(16 / 60)


def test_drops_small_fragments():
    kept = clean_mask(TWO_FRAGMENTS, CleanSettings(drop_fragments=4 / 14))
    assert kept.fragments == 2
    dropped = clean_mask(TWO_FRAGMENTS, CleanSettings(drop_fragments=0.3))
    assert (
        dropped.fragments == 1 and dropped.mask[4:].sum() == 0 and dropped.mask[:4].equal(TWO_FRAGMENTS[:4])
    )


def test_connects_pixels_at_corners():
    assert clean_mask(torch.eye(5), CleanSettings()).fragments == 1


def test_widens_to_boxes_and_hulls():
    corner = drawn("#....", "#....", "#....", "#....", "#####")
    assert clean_mask(corner, CleanSettings(shape="box", max_area=1.0)).mask.sum() == 25
    hull = clean_mask(corner, CleanSettings(shape="hull")).mask
    assert torch.equal(hull, drawn("#....", "##...", "###..", "####.", "#####"))
    # Each fragment has a hull.
    both = clean_mask(TWO_FRAGMENTS, CleanSettings(shape="hull"))
    assert both.mask.sum() == 16 and both.area == pytest.approx(14 / 60)
    assert both.reason == "accepted: covers 23.3 % of the image in 2 fragments, 26.7 % in its new shape"
    single = drawn("...", ".#.", "...")
    for shape in ("hull", "box"):
        assert torch.equal(clean_mask(single, CleanSettings(shape=shape)).mask, single)


def test_grows_in_a_circle_and_shrinking_undoes_it():
    point = torch.zeros(7, 7)
    point[3, 3] = 1
    grown = clean_mask(point, CleanSettings(grow=2)).mask
    assert torch.equal(
        grown, drawn(".......", "...#...", "..###..", ".#####.", "..###..", "...#...", ".......")
    )
    assert torch.equal(clean_mask(grown, CleanSettings(grow=-2, **ANY_AREA)).mask, point)


def test_shrinking_keeps_the_images_border():
    band = drawn("###..", "###..", "###..")
    assert torch.equal(clean_mask(band, CleanSettings(grow=-1)).mask, drawn("##...", "##...", "##..."))
    assert clean_mask(torch.ones(5, 5), CleanSettings(grow=-2, **ANY_AREA)).mask.all()


def test_feathers_only_outside():
    line = torch.zeros(1, 12)
    line[0, :4] = 1
    soft = clean_mask(line, CleanSettings(feather=4)).mask[0]
    expected = [1.0] * 4 + [math.exp(-4.5 * (distance / 4) ** 2) for distance in (1, 2, 3, 4)] + [0.0] * 4
    assert soft.tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(
        clean_mask(torch.ones(3, 3), CleanSettings(feather=4, **ANY_AREA)).mask, torch.ones(3, 3)
    )


@pytest.mark.parametrize(
    ("mask", "changes", "reason"),
    [
        (torch.zeros(20, 20), {}, "refused: it is empty, no value exceeds the threshold of 0.5"),
        (torch.full((20, 20), 0.4), {}, "refused: it is empty, no value exceeds the threshold of 0.5"),
        (
            box_mask([Box(0, 0, 1, 1)], 20, 20),
            {},
            "refused: covers 0.25 % of the image; at least 1 % is needed",
        ),
        (
            box_mask([Box(0, 0, 19, 20)], 20, 20),
            {},
            "refused: covers 95 % of the image; at most 90 % is allowed",
        ),
        (
            box_mask([Box(0, 0, 4, 4)], 20, 20),
            {"min_area": 0.05},
            "refused: covers 4 % of the image; at least 5 % is needed",
        ),
        (TWO_FRAGMENTS, {"max_fragments": 1}, "refused: lies in 2 fragments; at most 1 are allowed"),
        (
            TWO_FRAGMENTS,
            {"drop_fragments": 0.8},
            "refused: none of its 2 fragments is 80 % of it, and smaller ones are dropped",
        ),
        (
            box_mask([Box(5, 5, 10, 10)], 20, 20),
            {"grow": -3},
            "refused: shrinking it by 3 pixels leaves nothing of it",
        ),
    ],
)
def test_returns_refused_masks_unchanged(mask: Tensor, changes: dict, reason: str):
    cleaned = clean_mask(mask, CleanSettings(**changes))
    assert not cleaned.accepted and cleaned.reason == reason and cleaned.mask is mask


def test_applies_the_papers_limits():
    assert clean_mask(box_mask([Box(0, 0, 2, 2)], 20, 20), CleanSettings()).accepted
    assert clean_mask(box_mask([Box(0, 0, 18, 20)], 20, 20), CleanSettings()).accepted
    dots = torch.zeros(60, 60)
    dots[::2, ::2] = 1
    assert (
        clean_mask(dots, CleanSettings()).reason == "refused: lies in 900 fragments; at most 500 are allowed"
    )
    dots[40:] = 0
    dots[30:] = 0
    assert clean_mask(dots, CleanSettings()).fragments == 450


@LAW
@given(st.integers(0, 1000), SIZES, SIZES, st.booleans(), st.sampled_from([0.0, 0.1, 0.3]))
def test_cleaning_is_idempotent(seed: int, height: int, width: int, fill: bool, drop: float):
    clean_settings = CleanSettings(fill_holes=fill, drop_fragments=drop, **ANY_AREA)
    once = clean_mask(random_mask(seed, height, width, soft=True), clean_settings)
    # Hypothesis fails the test if it finds too few accepted masks.
    assume(once.accepted)
    twice = clean_mask(once.mask, clean_settings)
    assert twice.accepted
    assert torch.equal(twice.mask, once.mask)
    assert (twice.area, twice.fragments) == (once.area, once.fragments)


@LAW
@given(
    st.integers(0, 1000),
    SIZES,
    SIZES,
    st.sampled_from(["fine", "hull", "box"]),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_widening_growing_and_feathering_only_enlarge(
    seed: int, height: int, width: int, shape: str, grow: int, feather: int
):
    mask = random_mask(seed, height, width)
    assume(mask.any())
    plain = clean_mask(mask, CleanSettings(**ANY_AREA))
    larger = clean_mask(mask, CleanSettings(shape=shape, grow=grow, feather=feather, **ANY_AREA))
    assert plain.accepted and larger.accepted
    assert (larger.mask >= plain.mask).all()
    assert (larger.mask[plain.mask == 1] == 1).all() and larger.mask.max() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 2.0}, "Region settings: threshold is 2.0; it must lie between 0 and 1."),
        ({"threshold": math.nan}, "Region settings: threshold is nan; it must lie between 0 and 1."),
        ({"min_area": -0.1}, "Region settings: min_area is -0.1; it must lie between 0 and 1."),
        ({"max_area": 1.5}, "Region settings: max_area is 1.5; it must lie between 0 and 1."),
        (
            {"min_area": 0.5, "max_area": 0.4},
            "Region settings: min_area 0.5 exceeds max_area 0.4, so no mask would be accepted. Swap them.",
        ),
        ({"max_fragments": 0}, "Region settings: max_fragments is 0; it must lie between 1 and 1000000."),
        ({"drop_fragments": 1.1}, "Region settings: drop_fragments is 1.1; it must lie between 0 and 1."),
        ({"grow": 20000}, "Region settings: grow is 20000; it must lie between -16384 and 16384."),
        ({"feather": -1}, "Region settings: feather is -1; it must lie between 0 and 16384."),
        ({"shape": "round"}, "Region settings: shape is 'round'; it must be one of fine, hull, box."),
    ],
)
def test_rejects_invalid_settings(changes: dict, message: str):
    with pytest.raises(RegionError) as caught:
        CleanSettings(**changes)
    assert str(caught.value) == message


def test_rejects_a_batch_of_masks():
    with pytest.raises(
        RegionError,
        match=r"Cleaning: a mask of shape \(2, 4, 4\) was given, it takes one at a time: \[height, width\]\.",
    ):
        clean_mask(torch.zeros(2, 4, 4), CleanSettings())
