"""Find Edited Object in a real ComfyUI: grammar, reader, named objects, batches, nothing found."""

import numpy as np
import pytest
import torch

from instructbrush.tests.comfy.graphs import make_image
from instructbrush.tools.pocket.wishes.wishes import sample_wish


def find(comfy, graph, image, instruction="make the star red", reader=False, **changes):
    finder = graph.node(
        "InstructBrushLoadRegionFinder",
        finder_name="pocket finder (built in)",
        sam_name=comfy.pack("nodes.comfy.encoders.finders").sam_names()[0],
    ).out(0)
    if reader:
        changes["mllm"] = graph.node(
            "InstructBrushLoadMllm", mllm_name="pocket reader (built in)", precision="auto"
        ).out(0)
    settings = {"objects": "", "when_missing": "whole image", **changes}
    return graph.node(
        "InstructBrushFindEditedObject",
        image=comfy.give(graph, image),
        finder=finder,
        instruction=instruction,
        **settings,
    )


def results(comfy, *arguments, **changes):
    graph = comfy.graph()
    node = find(comfy, graph, *arguments, **changes)
    run = comfy.run(graph, *(node.out(place) for place in range(4)))
    (shown,) = [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})]
    assert shown == [run.values[2]]
    return run.values


def scene(kind, seed=3):
    wish = sample_wish(np.random.default_rng(seed), kind)
    return torch.from_numpy(wish.before)[None], wish


def test_mask_equals_that_of_find_region(comfy):
    image, wish = scene("traffic_light")
    graph = comfy.graph()
    ours = find(comfy, graph, image, wish.instruction)
    region = graph.node(
        "InstructBrushFindRegion",
        image=comfy.give(graph, image),
        finder=ours.get_input("finder"),
        words=wish.meaning[1],
        box_threshold=-1.0,
        text_threshold=-1.0,
    )
    mask, objects, boxes, expected, expected_boxes = comfy.values(
        graph, ours.out(0), ours.out(1), ours.out(3), region.out(0), region.out(2)
    )
    assert objects == wish.meaning[1]
    assert torch.equal(mask, expected) and torch.equal(boxes, expected_boxes)
    assert 0.005 < mask.mean() < 0.5


def test_pocket_reader_explains_a_wish_first(comfy):
    image, wish = scene("equal_sizes")
    mask, objects, report, _ = results(comfy, image, wish.words, reader=True)
    assert objects == wish.meaning[1]
    assert report.startswith(f"Edited: {objects} (decided by the grammar from '{wish.instruction}').")
    assert 0 < mask.mean() < 0.9


def test_whole_image_is_white(comfy):
    mask, objects, report, boxes = results(comfy, make_image(1, 2), "make it night")
    assert mask.shape == boxes.shape == (2, 64, 64)
    assert mask.min() == boxes.min() == 1
    assert objects == "\n"
    assert report.startswith("Image 1\nThe whole image: no object is named (decided by the grammar).")


def test_named_objects_take_the_place_of_the_instruction(comfy):
    image, wish = scene("traffic_light")
    shape = wish.meaning[1]
    _, objects, report, _ = results(comfy, image, "", objects=f"the {shape}")
    assert objects == shape
    assert report.startswith(f"Edited: {shape} (named by you).")


@pytest.mark.parametrize(("when_missing", "value"), [("whole image", 1.0), ("empty", 0.0)])
def test_says_when_nothing_is_found(comfy, when_missing, value):
    mask, objects, report, _ = results(comfy, make_image(1), when_missing=when_missing, box_threshold=1.0)
    assert (mask == value).all()
    assert objects == "star"
    assert "Nothing was found for star, so the mask is " in report


def test_stops_when_nothing_is_found(comfy):
    graph = comfy.graph()
    node = find(comfy, graph, make_image(1), when_missing="stop", box_threshold=1.0)
    message = comfy.error(graph, node.out(0))
    assert message == (
        "Find Edited Object: nothing was found for star. Name the object in other words, lower "
        "the least object score, or choose 'whole image' for what to do then."
    )


def test_rejects_an_empty_instruction(comfy):
    graph = comfy.graph()
    message = comfy.error(graph, find(comfy, graph, make_image(1), " ", reader=True).out(0))
    assert message == "Find Edited Object: the instruction is empty. Write one, such as: make the hat red."
