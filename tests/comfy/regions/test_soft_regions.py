"""Soft Region in a real ComfyUI, and masks of every shape in all region nodes."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import make_image
from instructbrush.tests.comfy.regions.region_graphs import (
    Regions,
    cleaning,
    softened,
    square,
)


def test_makes_soft_masks_from_box_masks_boxes_and_bounding_boxes(comfy):
    fine = square(20, 20, 30, 30)
    box = square(10, 10, 40, 40)
    expected = torch.maximum(fine, 0.5 * box)
    graph, node = softened(comfy, fine, box_mask=box)
    assert torch.equal(comfy.values(graph, node.out(0))[0], expected)
    graph = comfy.graph()
    stock = graph.node("PrimitiveBoundingBox", x=10, y=10, width=30, height=30)
    node = graph.node("InstructBrushSoftRegion", mask=comfy.give(graph, fine), s=0.5, boxes=stock.out(0))
    assert torch.equal(comfy.values(graph, node.out(0))[0], expected)
    corners = torch.maximum(fine, square(0, 0, 4, 4))
    graph, node = softened(comfy, corners)
    assert torch.equal(
        comfy.values(graph, node.out(0))[0], torch.maximum(corners, 0.5 * square(0, 0, 30, 30))
    )
    graph, node = softened(comfy, corners, own_box="around each fragment")
    assert torch.equal(comfy.values(graph, node.out(0))[0], corners)


def test_uses_each_images_boxes(comfy):
    fine = square(20, 20, 30, 30).repeat(2, 1, 1)
    found = [[{"x": 40.0, "y": -0.7, "width": 24.4, "height": 10.0, "score": 0.9}], []]
    graph, node = softened(comfy, fine, boxes=found, s=0.25)
    made = comfy.values(graph, node.out(0))[0]
    assert torch.equal(made[0], torch.maximum(fine[0], 0.25 * square(40, 0, 64, 10)[0])) and torch.equal(
        made[1], fine[1]
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"box_mask": torch.ones(1, 32, 64)},
            "Soft mask: the fine mask is 64 x 64, the box mask 64 x 32. Make both as large as the image.",
        ),
        (
            {"box_mask": torch.ones(3, 64, 64)},
            "Soft mask: 2 fine masks and 3 box masks. Give a box mask for each fine mask, or one for all.",
        ),
        (
            {"boxes": {"x": 200, "y": 0, "width": 9, "height": 9}},
            "Box 1 (200, 0, 209, 9) (left, top, right, bottom) in an image of 64 x 64 leaves the image.",
        ),
        (
            {"boxes": [{"x": 5, "y": 5, "width": 0, "height": 9}]},
            "Box 1 (5, 5, 5, 14) (left, top, right, bottom) in an image of 64 x 64 is empty.",
        ),
        (
            {"boxes": [[], [], []]},
            "Boxes: there are boxes for 3 images, but 2 masks. Give boxes for each, or one list for all.",
        ),
        (
            {"boxes": [{"x": 5}]},
            "Boxes: {'x': 5} is not a box. A box has the numbers x, y, width and height, in pixels.",
        ),
        ({"boxes": 7}, "Boxes: int is not a list of boxes. Connect an output that gives BOUNDING_BOX."),
    ],
)
def test_rejects_boxes_that_do_not_fit(comfy, inputs, message):
    graph, node = softened(comfy, square(20, 20, 30, 30).repeat(2, 1, 1), **inputs)
    assert comfy.error(graph, node.out(0)).startswith(message)


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (1, 1, 64, 64), (1, 64, 64, 1), (1, 64, 64, 3)])
def test_all_region_nodes_accept_masks_of_every_shape(comfy, shape):
    def reshaped(mask):
        return mask.expand(shape) if len(shape) < 4 or shape[1] == 1 else mask[..., None].expand(shape)

    fine = square(8, 8, 40, 40)
    mask = reshaped(fine[0] if len(shape) == 2 else fine)
    graph, node = cleaning(comfy, mask)
    assert torch.equal(comfy.values(graph, node.out(0))[0], fine)
    graph, node = softened(comfy, mask, box_mask=mask)
    assert torch.equal(comfy.values(graph, node.out(0))[0], fine)
    regions = Regions(comfy)
    assert torch.equal(comfy.values(regions.graph, regions.combine((regions.words, mask)).out(1))[0], fine)
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushPasteBack",
        edited=comfy.give(graph, make_image(1)),
        original=comfy.give(graph, make_image(0)),
        mask=comfy.give(graph, mask),
        feather=0,
    )
    assert torch.equal(
        comfy.values(graph, node.out(0))[0], torch.where(fine[..., None] == 1, make_image(1), make_image(0))
    )
