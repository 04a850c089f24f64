"""Clean Region in a real ComfyUI."""

import pytest
import torch

from instructbrush.tests.comfy.regions.region_graphs import (
    cleaning,
    square,
)


def test_shows_what_masks_cover_in_the_node(comfy):
    masks = torch.cat([square(0, 0, 32, 32), square(0, 0, 16, 64)])
    graph, node = cleaning(comfy, masks)
    run = comfy.run(graph, node.out(0), node.out(1))
    mask, report = run.values
    assert torch.equal(mask, masks)
    assert report.splitlines() == [
        f"{number}: accepted: covers 25 % of the image in 1 fragment" for number in (1, 2)
    ]
    assert [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})] == [
        [report]
    ]


def test_cleans_a_painted_mask(comfy):
    mask = square(10, 10, 40, 40)
    mask[:, 20:24, 20:24] = 0
    mask[:, 60, 60] = 1
    graph, node = cleaning(comfy, mask[0], fill_holes=True, drop_fragments=0.01, grow=2, feather=4)
    cleaned, report = comfy.values(graph, node.out(0), node.out(1))
    assert (
        cleaned.shape == (1, 64, 64)
        and (cleaned[:, 8:42, 10:40] == 1).all()
        and not cleaned[:, 50:].any()
        and 0 < cleaned[0, 20, 44] < 1
    )
    assert report.startswith("accepted: covers 22 % of the image in 1 fragment, ")


@pytest.mark.parametrize(
    ("when_refused", "expected"),
    [
        ("keep", square(0, 0, 3, 3)),
        ("empty", torch.zeros(1, 64, 64)),
        ("whole picture", torch.ones(1, 64, 64)),
    ],
)
def test_continues_with_a_refused_mask_if_asked(comfy, when_refused, expected):
    good = square(8, 8, 40, 40)
    graph, node = cleaning(comfy, torch.cat([good, square(0, 0, 3, 3)]), when_refused=when_refused)
    mask, report = comfy.values(graph, node.out(0), node.out(1))
    assert torch.equal(mask, torch.cat([good, expected]))
    assert report.splitlines()[1] == "2: refused: covers 0.22 % of the image; at least 1 % is needed"


@pytest.mark.parametrize(
    ("mask", "changes", "message"),
    [
        (
            torch.cat([square(8, 8, 40, 40), square(0, 0, 3, 3)]),
            {},
            "Clean Region: mask 2 of 2 was refused: covers 0.22 % of the image; at least 1 % is needed. Give "
            "another mask, change the limits, or choose another when_refused.",
        ),
        (
            torch.zeros(1, 64, 64),
            {},
            "Clean Region: mask 1 of 1 was refused: it is empty, no value exceeds the threshold of 0.5. "
            "Perhaps no mask was painted",
        ),
        (
            torch.ones(1, 64, 64),
            {},
            "Clean Region: mask 1 of 1 was refused: covers 100 % of the image; at most 90 % is allowed.",
        ),
        (
            square(8, 8, 40, 40),
            {"grow": -20},
            "Clean Region: mask 1 of 1 was refused: shrinking it by 20 pixels leaves nothing of it.",
        ),
        (
            torch.zeros(0, 64, 64),
            {},
            "Mask: it holds no mask (its shape is (0, 64, 64)). Perhaps nothing was found: connect a mask "
            "that holds a region.",
        ),
        (torch.full((1, 8, 8), float("nan")), {}, "Mask holds values that are not finite."),
        (
            square(8, 8, 40, 40),
            {"min_area": 0.5, "max_area": 0.2},
            "Region settings: min_area 0.5 exceeds max_area 0.2, so no mask would be accepted. Swap them.",
        ),
    ],
)
def test_stops_the_run_for_bad_masks(comfy, mask, changes, message):
    graph, node = cleaning(comfy, mask, **changes)
    assert comfy.error(graph, node.out(0)).startswith(message)
