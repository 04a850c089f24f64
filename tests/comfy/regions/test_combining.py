"""Combine Regions in a real ComfyUI."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import instruction
from instructbrush.tests.comfy.regions.region_graphs import (
    Regions,
    close,
    left_mask,
    square,
)


def alone(comfy, learned=None, count=1):
    regions = Regions(comfy, count)
    return regions.sample(regions.words if learned is None else regions.branch(learned))


def test_edits_two_regions_with_different_instructions(comfy):
    first = instruction(comfy, 1)
    second = instruction(comfy, 2, segments=3, tokens=5)
    regions = Regions(comfy)
    node = regions.combine((regions.branch(first), left_mask()), (regions.branch(second), 1 - left_mask()))
    mixed = regions.sample(node.out(0))
    assert close(mixed[..., :4], alone(comfy, first)[..., :4]) and close(
        mixed[..., 4:], alone(comfy, second)[..., 4:]
    )
    assert torch.equal(comfy.values(regions.graph, node.out(1))[0], torch.ones(1, 64, 64))


def test_rest_acts_outside_the_regions(comfy):
    learned = instruction(comfy, 1)
    regions = Regions(comfy)
    node = regions.combine((regions.branch(learned), left_mask()), rest=regions.words)
    mixed = regions.sample(node.out(0))
    assert close(mixed[..., :4], alone(comfy, learned)[..., :4]) and close(
        mixed[..., 4:], alone(comfy)[..., 4:]
    )


def test_a_single_region_without_rest_edits_as_without_a_mask(comfy):
    learned = instruction(comfy, 1)
    for mask in (torch.ones(1, 64, 64), left_mask(), torch.zeros(1, 64, 64)):
        regions = Regions(comfy)
        assert close(
            regions.sample(regions.combine((regions.branch(learned), mask)).out(0)),
            alone(comfy, learned),
            1e-4,
        )


def test_mixes_overlapping_regions_by_their_masks(comfy):
    learned = instruction(comfy, 1)
    regions = Regions(comfy)
    node = regions.combine(
        (regions.branch(learned), torch.full((1, 64, 64), 0.75)),
        (regions.words, torch.full((1, 64, 64), 0.25)),
    )
    # Euler's single step and guidance are linear in the prediction.
    assert close(regions.sample(node.out(0)), 0.75 * alone(comfy, learned) + 0.25 * alone(comfy), 1e-4)


def test_accepts_a_mask_for_each_image(comfy):
    learned = instruction(comfy, 1)
    regions = Regions(comfy, 2)
    masks = torch.cat([left_mask(), 1 - left_mask()])
    node = regions.combine((regions.branch(learned), masks), rest=regions.words)
    mixed = regions.sample(node.out(0))
    edited = alone(comfy, learned, 2)
    kept = alone(comfy, count=2)
    assert close(mixed[0, ..., :4], edited[0, ..., :4], 1e-4) and close(
        mixed[0, ..., 4:], kept[0, ..., 4:], 1e-4
    )
    assert close(mixed[1, ..., 4:], edited[1, ..., 4:], 1e-4) and close(
        mixed[1, ..., :4], kept[1, ..., :4], 1e-4
    )


def test_combines_combined_regions(comfy):
    regions = Regions(comfy)
    one = regions.branch(instruction(comfy, 1))
    two = regions.branch(instruction(comfy, 2))
    inner = regions.combine((one, square(0, 0, 16, 64)), (two, square(16, 0, 32, 64)))
    outer = regions.combine((inner.out(0), inner.out(1)), (regions.words, 1 - left_mask()))
    flat = regions.combine(
        (one, square(0, 0, 16, 64)), (two, square(16, 0, 32, 64)), (regions.words, 1 - left_mask())
    )
    assert close(regions.sample(outer.out(0)), regions.sample(flat.out(0)))
    assert torch.equal(comfy.values(regions.graph, outer.out(1))[0], torch.ones(1, 64, 64))


def test_masks_match_conditioning_set_mask(comfy):
    regions = Regions(comfy)
    mask = left_mask()
    node = regions.combine((regions.words, mask), rest=regions.words)
    stock = regions.graph.node(
        "ConditioningSetMask",
        conditioning=regions.words,
        mask=regions.give(mask),
        strength=1.0,
        set_cond_area="default",
    )
    ours, theirs = comfy.values(regions.graph, node.out(0), stock.out(0))
    assert len(ours) == 2
    _, mine = ours[0]
    _, stocks = theirs[0]
    assert (
        mine.keys() == stocks.keys()
        and torch.equal(mine["mask"], stocks["mask"])
        and torch.equal(ours[1][1]["mask"], 1 - mask)
    )
    assert (mine["set_area_to_bounds"], mine["mask_strength"]) == (
        stocks["set_area_to_bounds"],
        stocks["mask_strength"],
    )


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            [left_mask(), torch.ones(1, 32, 64)],
            "Mask: it is 64 x 32, the image 64 x 64, which is another aspect ratio.",
        ),
        (
            [torch.ones(2, 64, 64), torch.ones(3, 64, 64)],
            "Mask: 2 masks do not fit 3 images. Give one for each image, or one for all.",
        ),
        (
            [left_mask() * 255],
            "Mask holds values from 0 to 255. Scale them: a mask runs from 0 (stays) to 1 (is edited).",
        ),
    ],
)
def test_rejects_regions_that_do_not_fit(comfy, masks, message):
    regions = Regions(comfy)
    assert comfy.error(
        regions.graph, regions.combine(*((regions.words, mask) for mask in masks)).out(0)
    ).startswith(message)


def test_rejects_a_region_without_mask_or_conditioning(comfy):
    regions = Regions(comfy)
    node = regions.combine((regions.words, left_mask()), mask_3=regions.give(left_mask()))
    assert (
        comfy.error(regions.graph, node.out(0))
        == "Combine Regions: mask_3 has no conditioning_3. Connect both, or neither."
    )
    regions = Regions(comfy)
    node = regions.combine((regions.words, left_mask()), conditioning_2=regions.words)
    assert (
        comfy.error(regions.graph, node.out(0))
        == "Combine Regions: conditioning_2 has no mask_2. Connect both, or neither."
    )


def test_the_largest_mask_determines_the_size(comfy):
    regions = Regions(comfy)
    node = regions.combine(
        (regions.words, square(0, 0, 16, 32, side=32)), (regions.words, square(32, 0, 64, 64))
    )
    union = comfy.values(regions.graph, node.out(1))[0]
    assert union.shape == (1, 64, 64) and (union[..., :30] == 1).all() and (union[..., 34:] == 1).all()
    regions = Regions(comfy)
    node = regions.combine(
        (regions.words, torch.zeros(1, 64, 64)), (regions.words, square(0, 0, 64, 128, side=128))
    )
    assert comfy.error(regions.graph, node.out(1)).startswith(
        "Mask: no mask was painted. It is the black one of 64 x 64 that Load Image gives"
    )
