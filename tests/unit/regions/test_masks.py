"""Masks of regions: worked examples, the laws they obey, and what is refused."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instructbrush.core.errors import RegionError
from instructbrush.core.regions.cleaning import CleanSettings, clean_mask
from instructbrush.core.regions.masks import (
    Box,
    bounding_box_mask,
    box_mask,
    check_boxes,
    check_mask,
    clip_boxes,
    combine_masks,
    fit_mask,
    mask_batch,
    paste_back,
    soft_mask,
)
from instructbrush.core.storage.image_sizes import vae_crop

LAW = settings(deadline=None, max_examples=25, derandomize=True)
SIZES = st.integers(1, 24)
ANY_AREA = {"min_area": 0.0, "max_area": 1.0}


def drawn(*rows: str) -> Tensor:
    """A mask of strings: `#` is 1, `+` is 0.5, anything else 0."""
    return torch.tensor([[{"#": 1.0, "+": 0.5}.get(mark, 0.0) for mark in row] for row in rows])


def random_mask(seed: int, *shape: int, soft: bool = False) -> Tensor:
    """Zeros and ones, with values between them where `soft`."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 2, shape, generator=draw).float()
    return (
        torch.where(torch.rand(shape, generator=draw) < 0.3, torch.rand(shape, generator=draw), values)
        if soft
        else values
    )


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed))


# Boxes


def test_a_box_covers_every_pixel_it_touches():
    whole = box_mask([Box(1, 0, 3, 2)], 3, 5)
    assert torch.equal(whole, drawn(".##..", ".##..", "....."))
    assert torch.equal(box_mask([Box(1.9, 0.5, 2.1, 1.5)], 3, 5), whole)
    assert torch.equal(box_mask([Box(0, 0, 1, 1), Box(4, 2, 5, 3)], 3, 5), drawn("#....", ".....", "....#"))
    assert torch.equal(box_mask([Box(0, 0, 5, 3)], 3, 5), torch.ones(3, 5))
    assert torch.equal(box_mask([], 3, 5), torch.zeros(3, 5))


@LAW
@given(st.integers(0, 10), st.integers(0, 10), st.integers(1, 10), st.integers(1, 10))
def test_the_area_of_a_box_is_its_width_by_its_height(left: int, top: int, width: int, height: int):
    assert box_mask([Box(left, top, left + width, top + height)], 20, 20).sum() == width * height


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (
            Box(10, 5, 10, 20),
            "Box 2 (10, 5, 10, 20) (left, top, right, bottom) in an image of 64 x 48 is empty. Its right must lie beyond its left, and its bottom beyond "
            "its top.",
        ),
        (
            Box(10, 20, 20, 5),
            "Box 2 (10, 20, 20, 5) (left, top, right, bottom) in an image of 64 x 48 is empty.",
        ),
        (
            Box(0, 0, math.nan, 5),
            "Box 2 (0, 0, nan, 5) (left, top, right, bottom) in an image of 64 x 48 is not finite. Give it four numbers in pixels.",
        ),
        (
            Box(0, 0, math.inf, 5),
            "Box 2 (0, 0, inf, 5) (left, top, right, bottom) in an image of 64 x 48 is not finite.",
        ),
        (
            Box(-5, 0, 20, 20),
            "Box 2 (-5, 0, 20, 20) (left, top, right, bottom) in an image of 64 x 48 leaves the image. Give pixels of this image: left and top from 0, "
            "right to 64, bottom to 48.",
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
def test_boxes_that_are_refused(box: Box, message: str):
    for check in (lambda boxes: check_boxes(boxes, 64, 48), lambda boxes: box_mask(boxes, 48, 64)):
        with pytest.raises(RegionError) as caught:
            check([Box(0, 0, 64, 48), box])
        assert str(caught.value).startswith(message)


def test_detectors_boxes_are_cut_at_the_border_and_foreign_ones_are_not():
    near, foreign, beside = Box(-2, 0.5, 65, 49), Box(0, 0, 512, 40), Box(65, 2, 66, 4)
    assert clip_boxes([near, foreign, beside], 64, 48) == [Box(0, 0.5, 64, 48), foreign, beside]


# Masks as they come


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
            "Mask: there is none in it (its shape is (0, 4, 4)). Perhaps nothing was found: connect a mask that holds a region.",
        ),
        (
            torch.full((4, 4), math.nan),
            "Mask holds values that are not finite. Look at what makes it: a mask runs from 0 (stays) to 1 (is edited).",
        ),
        (torch.full((4, 4), math.inf), "Mask holds values that are not finite."),
        (
            torch.full((4, 4), 255),
            "Mask holds values from 255 to 255. Scale them: a mask runs from 0 (stays) to 1 (is edited).",
        ),
        (torch.tensor([[-1.0, 1.0]]), "Mask holds values from -1 to 1."),
    ],
)
def test_what_is_no_mask_is_refused(mask: Tensor, message: str):
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
def test_masks_of_every_shape_that_nodes_give(axis: int | None, shape: tuple[int, ...]):
    sizes = [side for place, side in enumerate(shape) if place != axis]
    plain = random_mask(0, *([1, *sizes] if len(sizes) == 2 else sizes), soft=True)
    given = plain.reshape(sizes) if axis is None else plain.unsqueeze(axis).expand(shape).clone()
    if shape[-1] == 4:
        given[..., 3] = 0.3
    assert torch.equal(mask_batch(given), plain)
    assert torch.equal(fit_mask(given, *plain.shape[1:], len(plain)), plain)


def test_images_in_colour_and_other_shapes_are_no_masks():
    image = torch.zeros(1, 4, 4, 3)
    image[..., 0] = 0.5
    with pytest.raises(
        RegionError,
        match=r"^Mask: it is a coloured image\. A mask is white where the edit acts and black elsewhere: connect a MASK\.$",
    ):
        mask_batch(image)
    with pytest.raises(
        RegionError,
        match=r"^Mask: its shape is \(1, 2, 4, 5\), a mask has \[height, width\] or \[batch, height, width\]\.",
    ):
        mask_batch(torch.zeros(1, 2, 4, 5))
    with pytest.raises(RegionError, match=r"^Mask: there is none in it"):
        mask_batch(torch.zeros(0, 4, 4, 3))


def test_a_mask_that_is_one_stays_the_same_tensor():
    mask = random_mask(0, 4, 4, soft=True)
    assert check_mask(mask) is mask
    assert check_mask(mask > 0.5).dtype == torch.float32
    assert torch.equal(check_mask(torch.tensor([[-1e-4, 1.0001]])), torch.tensor([[0.0, 1.0]]))


# Cleaning


TWO = drawn(
    "..........",
    ".####.....",
    ".#..#.....",
    ".####.....",
    "........##",
    "........##",
)  # fmt: skip


def test_what_is_fit_stays_as_it_is():
    cleaned = clean_mask(TWO, CleanSettings())
    assert (
        cleaned.accepted
        and torch.equal(cleaned.mask, TWO)
        and cleaned.fragments == 2
        and cleaned.area == pytest.approx(14 / 60)
    )
    assert cleaned.reason == "accepted: covers 23.3 % of the image in 2 fragments"
    assert clean_mask(TWO[:4], CleanSettings()).reason == "accepted: covers 25 % of the image in 1 fragment"


def test_values_above_the_threshold_belong_to_it():
    mask = drawn("#+..")
    assert clean_mask(mask, CleanSettings()).mask.tolist() == [[1, 0, 0, 0]]
    assert clean_mask(mask, CleanSettings(threshold=0.4)).mask.tolist() == [[1, 1, 0, 0]]


def test_holes_are_filled():
    cleaned = clean_mask(TWO, CleanSettings(fill_holes=True))
    assert cleaned.mask[2].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert cleaned.mask.sum() == 16 and cleaned.area == pytest.approx(16 / 60)


def test_small_fragments_are_dropped():
    kept = clean_mask(TWO, CleanSettings(drop_fragments=4 / 14))
    assert kept.fragments == 2
    dropped = clean_mask(TWO, CleanSettings(drop_fragments=0.3))
    assert dropped.fragments == 1 and dropped.mask[4:].sum() == 0 and dropped.mask[:4].equal(TWO[:4])


def test_pixels_that_touch_at_a_corner_are_one_fragment():
    assert clean_mask(torch.eye(5), CleanSettings()).fragments == 1


def test_widening_to_boxes_and_hulls():
    corner = drawn("#....", "#....", "#....", "#....", "#####")
    assert clean_mask(corner, CleanSettings(shape="box", max_area=1.0)).mask.sum() == 25
    hull = clean_mask(corner, CleanSettings(shape="hull")).mask
    assert torch.equal(hull, drawn("#....", "##...", "###..", "####.", "#####"))
    # Each fragment for itself.
    both = clean_mask(TWO, CleanSettings(shape="hull"))
    assert both.mask.sum() == 16 and both.area == pytest.approx(14 / 60)
    assert both.reason == "accepted: covers 23.3 % of the image in 2 fragments, 26.7 % in its new shape"
    single = drawn("...", ".#.", "...")
    for shape in ("hull", "box"):
        assert torch.equal(clean_mask(single, CleanSettings(shape=shape)).mask, single)


def test_growing_is_round_and_shrinking_undoes_it():
    point = torch.zeros(7, 7)
    point[3, 3] = 1
    grown = clean_mask(point, CleanSettings(grow=2)).mask
    assert torch.equal(
        grown, drawn(".......", "...#...", "..###..", ".#####.", "..###..", "...#...", ".......")
    )
    assert torch.equal(clean_mask(grown, CleanSettings(grow=-2, **ANY_AREA)).mask, point)


def test_shrinking_leaves_the_images_border():
    band = drawn("###..", "###..", "###..")
    assert torch.equal(clean_mask(band, CleanSettings(grow=-1)).mask, drawn("##...", "##...", "##..."))
    assert clean_mask(torch.ones(5, 5), CleanSettings(grow=-2, **ANY_AREA)).mask.all()


def test_feathering_falls_off_outside_and_nowhere_else():
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
            "refused: covers 0.25 % of the image, at least 1 % is needed",
        ),
        (
            box_mask([Box(0, 0, 19, 20)], 20, 20),
            {},
            "refused: covers 95 % of the image, at most 90 % is allowed",
        ),
        (
            box_mask([Box(0, 0, 4, 4)], 20, 20),
            {"min_area": 0.05},
            "refused: covers 4 % of the image, at least 5 % is needed",
        ),
        (TWO, {"max_fragments": 1}, "refused: lies in 2 fragments, at most 1 are allowed"),
        (
            TWO,
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
def test_masks_that_are_refused_come_back_as_they_came(mask: Tensor, changes: dict, reason: str):
    cleaned = clean_mask(mask, CleanSettings(**changes))
    assert not cleaned.accepted and cleaned.reason == reason and cleaned.mask is mask


def test_the_papers_limits():
    assert clean_mask(box_mask([Box(0, 0, 2, 2)], 20, 20), CleanSettings()).accepted
    assert clean_mask(box_mask([Box(0, 0, 18, 20)], 20, 20), CleanSettings()).accepted
    dots = torch.zeros(60, 60)
    dots[::2, ::2] = 1
    assert (
        clean_mask(dots, CleanSettings()).reason == "refused: lies in 900 fragments, at most 500 are allowed"
    )
    dots[40:] = 0
    dots[30:] = 0
    assert clean_mask(dots, CleanSettings()).fragments == 450


@LAW
@given(st.integers(0, 1000), SIZES, SIZES, st.booleans(), st.sampled_from([0.0, 0.1, 0.3]))
def test_cleaning_twice_is_cleaning_once(seed: int, height: int, width: int, fill: bool, drop: float):
    asked = CleanSettings(fill_holes=fill, drop_fragments=drop, **ANY_AREA)
    once = clean_mask(random_mask(seed, height, width, soft=True), asked)
    if once.accepted:
        twice = clean_mask(once.mask, asked)
        assert (
            twice.accepted
            and torch.equal(twice.mask, once.mask)
            and (twice.area, twice.fragments) == (once.area, once.fragments)
        )


@LAW
@given(
    st.integers(0, 1000),
    SIZES,
    SIZES,
    st.sampled_from(["fine", "hull", "box"]),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_widening_growing_and_feathering_only_add(
    seed: int, height: int, width: int, shape: str, grow: int, feather: int
):
    mask = random_mask(seed, height, width)
    plain = clean_mask(mask, CleanSettings(**ANY_AREA))
    if plain.accepted:
        more = clean_mask(mask, CleanSettings(shape=shape, grow=grow, feather=feather, **ANY_AREA)).mask
        assert (more >= plain.mask).all() and (more[plain.mask == 1] == 1).all() and more.max() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 2.0}, "Region settings: threshold is 2.0, it must lie between 0 and 1."),
        ({"threshold": math.nan}, "Region settings: threshold is nan, it must lie between 0 and 1."),
        ({"min_area": -0.1}, "Region settings: min_area is -0.1, it must lie between 0 and 1."),
        ({"max_area": 1.5}, "Region settings: max_area is 1.5, it must lie between 0 and 1."),
        (
            {"min_area": 0.5, "max_area": 0.4},
            "Region settings: min_area 0.5 exceeds max_area 0.4, so no mask would be accepted. Swap them.",
        ),
        ({"max_fragments": 0}, "Region settings: max_fragments is 0, it must lie between 1 and 1000000."),
        ({"drop_fragments": 1.1}, "Region settings: drop_fragments is 1.1, it must lie between 0 and 1."),
        ({"grow": 20000}, "Region settings: grow is 20000, it must lie between -16384 and 16384."),
        ({"feather": -1}, "Region settings: feather is -1, it must lie between 0 and 16384."),
        ({"shape": "round"}, "Region settings: shape is 'round', it must be one of fine, hull, box."),
    ],
)
def test_settings_that_are_refused(changes: dict, message: str):
    with pytest.raises(RegionError) as caught:
        CleanSettings(**changes)
    assert str(caught.value) == message


def test_cleaning_takes_one_mask():
    with pytest.raises(
        RegionError,
        match=r"Cleaning: a mask of shape \(2, 4, 4\) was given, it takes one at a time: \[height, width\]\.",
    ):
        clean_mask(torch.zeros(2, 4, 4), CleanSettings())


# Soft masks (Eq. 2) and boxes of masks


def test_the_soft_mask_is_eq_2():
    fine = drawn(".....", "..#..", ".....")
    box = drawn(".....", ".###.", ".....")
    assert soft_mask(fine, box, 0.25).tolist() == [[0] * 5, [0, 0.25, 1, 0.25, 0], [0] * 5]
    # Outside of the box the fine mask stays what it is.
    assert soft_mask(drawn("##...")[None], drawn(".##.."), 0.5).tolist() == [[[1, 1, 0.5, 0, 0]]]


@LAW
@given(st.integers(0, 1000), st.integers(1, 3), st.booleans(), SIZES, SIZES, st.floats(0, 1))
def test_soft_masks_have_the_values_of_eq_2(
    seed: int, batch: int, single: bool, height: int, width: int, s: float
):
    fine, box = (
        random_mask(seed, batch, height, width),
        random_mask(seed + 1, 1 if single else batch, height, width),
    )
    made = soft_mask(fine, box, s)
    expected = torch.where((box == 1) & (fine == 0), torch.tensor(s, dtype=torch.float32), fine)
    assert made.shape == fine.shape and torch.equal(made, expected)


@LAW
@given(st.integers(0, 1000), st.floats(0, 1))
def test_soft_edges_fall_off_to_s_and_not_below(seed: int, s: float):
    fine, box = random_mask(seed, 8, 8, soft=True), random_mask(seed + 1, 8, 8)
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
            "Soft mask: s is 1.2, it must lie between 0 and 1. UltraEdit uses 0.2 to 0.8.",
        ),
        (
            torch.zeros(4, 4),
            torch.zeros(4, 4),
            math.nan,
            "Soft mask: s is nan, it must lie between 0 and 1. UltraEdit uses 0.2 to 0.8.",
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
def test_soft_masks_that_are_refused(fine: Tensor, box: Tensor, s: float, message: str):
    with pytest.raises(RegionError) as caught:
        soft_mask(fine, box, s)
    assert str(caught.value) == message


def test_masks_of_another_resolution_are_scaled():
    small, large = box_mask([Box(0, 0, 2, 4)], 4, 4), box_mask([Box(0, 0, 8, 16)], 16, 16)
    assert ((soft_mask(large, small, 0.5) - large).abs() <= 0.5).all() and torch.equal(
        soft_mask(large, small, 0.5)[:, :6], large[:, :6]
    )
    united = combine_masks([large, small[None]])
    assert (
        united.shape == (1, 16, 16)
        and torch.equal(united[..., :6], torch.ones(1, 16, 6))
        and not united[..., 10:].any()
    )


def test_the_box_of_a_mask():
    whole = bounding_box_mask(TWO)
    assert whole.sum() == 5 * 9 and whole[1:, 1:].all()
    each = bounding_box_mask(TWO, each_fragment=True)
    assert each.sum() == 16 and torch.equal(each, clean_mask(TWO, CleanSettings(shape="box")).mask)
    batch = bounding_box_mask(torch.stack([TWO, torch.zeros_like(TWO)]))
    assert torch.equal(batch[0], whole) and not batch[1].any()
    assert not bounding_box_mask(drawn("+..")).any() and bounding_box_mask(drawn("+.."), threshold=0.1).any()


# Sizes and counts


def test_a_mask_that_fits_is_left_alone_and_a_single_one_repeated():
    mask = random_mask(0, 2, 6, 8)
    assert fit_mask(mask, 6, 8, 2) is mask
    assert torch.equal(fit_mask(mask[0], 6, 8, 3), mask[:1].repeat(3, 1, 1))


def test_masks_are_scaled():
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
    # A rounded side is the same shape: a latent's mask for 515 x 387.
    assert fit_mask(torch.ones(48, 64), 387, 515, 1).shape == (1, 387, 515)


@pytest.mark.parametrize(
    ("shape", "wanted", "message"),
    [
        (
            (1, 64, 64),
            (64, 70, 1),
            "Mask: it is 64 x 64, the image 70 x 64, which is another aspect ratio. Make the mask for this image, or crop it as the image was cropped.",
        ),
        ((48, 64), (64, 48, 1), "Mask: it is 64 x 48, the image 48 x 64, which is another aspect ratio."),
        ((2, 8, 8), (8, 8, 3), "Mask: 2 masks do not fit 3 images. Give one for each image, or one for all."),
    ],
)
def test_masks_that_do_not_fit_are_refused(shape: tuple, wanted: tuple, message: str):
    with pytest.raises(RegionError) as caught:
        fit_mask(torch.ones(shape), *wanted)
    assert str(caught.value).startswith(message)


def test_the_black_mask_of_load_image_is_named():
    for size in ((64, 70), (128, 128), (48, 64)):
        with pytest.raises(RegionError) as caught:
            fit_mask(torch.zeros(1, 64, 64), *size, 1)
        assert str(caught.value) == (
            "Mask: no mask was painted. It is the black one of 64 x 64 that Load Image gives for an image without transparency; this image is "
            f"{size[1]} x {size[0]}. Paint one (right-click Load Image, Open in MaskEditor), or connect another mask."
        )
    # A black mask that was made for the image stays one.
    assert (
        not fit_mask(torch.zeros(1, 64, 64), 64, 64, 1).any()
        and not fit_mask(torch.zeros(1, 32, 32), 128, 128, 1).any()
    )


@LAW
@given(st.integers(0, 1000), st.lists(st.booleans(), min_size=1, max_size=4))
def test_the_union_is_the_largest_value(seed: int, single: list[bool]):
    masks = [random_mask(seed + index, 1 if one else 3, 5, 7, soft=True) for index, one in enumerate(single)]
    expected = np.maximum.reduce([np.broadcast_to(mask.numpy(), (3, 5, 7)) for mask in masks])
    assert np.array_equal(np.broadcast_to(combine_masks(masks).numpy(), (3, 5, 7)), expected)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "Union of masks: there are none. Give at least one."),
        (
            [(4, 4), (4, 4), (8, 4)],
            "Union of masks: mask 1 is 4 x 4, mask 3 is 4 x 8. Make all as large as the image.",
        ),
        (
            [(2, 4, 4), (1, 4, 4), (3, 4, 4)],
            "Union of masks: mask 3 is a batch of 3, those before it of 2. Give as many of each, or one.",
        ),
    ],
)
def test_unions_that_are_refused(shapes: list, message: str):
    with pytest.raises(RegionError) as caught:
        combine_masks([torch.zeros(shape) for shape in shapes])
    assert str(caught.value) == message


# Pasting back


def by_hand(edited: Tensor, original: Tensor, mask: Tensor, top: int, left: int) -> Tensor:
    """Paste back pixel by pixel, without feathering."""
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
def test_outside_is_the_original_and_inside_the_edit_bit_for_bit(
    seed: int, batch: int, height: int, width: int
):
    top, left, rows, columns = vae_crop(height, width)
    original, edited = images(seed, batch, height, width), images(seed + 1, batch, rows, columns)
    mask = random_mask(seed, batch, height, width, soft=True)
    pasted = paste_back(edited, original, mask)
    expected = by_hand(edited, original, mask, top, left)
    exact = (mask == 0) | (mask == 1)
    assert torch.equal(pasted[exact], expected[exact]) and torch.allclose(pasted, expected, atol=1e-6)
    assert torch.equal(paste_back(edited, original, torch.zeros(height, width)), original)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 64), (71, 67), (64, 79)])
def test_a_crop_goes_back_to_where_comfyui_cut_it(height: int, width: int):
    original = images(0, 1, height, width)
    # ComfyUI's VAE.vae_encode_crop_pixels.
    cut = original
    for dimension, side in ((1, height), (2, width)):
        cut = cut.narrow(dimension, side % 8 // 2, side // 8 * 8)
    assert torch.equal(paste_back(cut, original, torch.ones(height, width)), original)
    marked = paste_back(cut + 1, original, torch.ones(height, width))
    top, left, rows, columns = vae_crop(height, width)
    changed = (marked != original).any(-1)[0]
    assert changed.sum() == rows * columns and changed[top : top + rows, left : left + columns].all()
    # A mask as large as the crop is put where the crop is.
    assert torch.equal(paste_back(cut + 1, original, torch.ones(rows, columns)), marked)


def test_the_originals_transparency_stays():
    original, edited = (
        torch.cat([images(0, 2, 71, 66), images(1, 2, 71, 66)[..., :1]], dim=-1),
        images(2, 2, 64, 64),
    )
    mask = random_mask(3, 2, 71, 66, soft=True)
    pasted = paste_back(edited, original, mask)
    assert torch.equal(pasted[..., 3], original[..., 3])
    assert torch.equal(pasted[..., :3], paste_back(edited, original[..., :3], mask))


def test_nothing_of_a_broken_edit_reaches_the_outside():
    original, mask = images(0, 1, 8, 8), torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    pasted = paste_back(torch.full_like(original, math.nan), original, mask)
    assert torch.equal(pasted[:, 4:], original[:, 4:]) and pasted[:, :4].isnan().all()


def test_one_original_and_one_mask_serve_a_batch():
    original, edited = images(0, 1, 8, 8), images(1, 3, 8, 8)
    mask = box_mask([Box(0, 0, 4, 8)], 8, 8)
    pasted = paste_back(edited, original, mask)
    assert torch.equal(pasted[:, :, :4], edited[:, :, :4]) and torch.equal(
        pasted[:, :, 4:], original[:, :, 4:].repeat(3, 1, 1, 1)
    )


def test_feathering_goes_inwards_and_leaves_the_images_border():
    original, edited = torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8, 3)
    pasted = paste_back(edited, original, box_mask([Box(0, 0, 5, 8)], 8, 8), feather=3)
    assert pasted[0, 0, :, 0].tolist() == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0, 0, 0])
    assert torch.equal(
        paste_back(edited, original, torch.full((8, 8), 0.5), feather=3), torch.full_like(original, 0.5)
    )
    # What the edit lacks is outside.
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
            "Paste back: the edited image is 64 x 64, the original 64 x 100. They must be of one size (sides cropped to multiples of 8 are put back): "
            "scale one to the other first.",
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
            "Paste back: the edited images have the shape (1, 8, 8, 4), they must have [batch, height, width, 3].",
        ),
        (
            (1, 8, 8, 3),
            (8, 8, 3),
            (8, 8),
            0,
            "Paste back: the original images have the shape (8, 8, 3), they must have [batch, height, width, 3 or 4].",
        ),
        ((1, 8, 8, 3), (1, 8, 8, 3), (8, 8), -1, "Paste back: feather is -1, it must be 0 or more pixels."),
    ],
)
def test_what_cannot_be_pasted_is_refused(
    edited: tuple, original: tuple, mask: tuple, feather: int, message: str
):
    with pytest.raises(RegionError) as caught:
        paste_back(torch.zeros(edited), torch.zeros(original), torch.zeros(mask), feather)
    assert str(caught.value).startswith(message)


def test_importing_masks_does_not_import_scipy():
    code = "import sys, instructbrush.core.regions.masks, instructbrush.core.regions.cleaning; print([m for m in ('scipy', 'skimage') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
