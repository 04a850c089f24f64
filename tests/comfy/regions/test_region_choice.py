"""Find Region keeps what its finder found: thresholds and clicks change the masks without another search."""

import json

import pytest
import torch

from instructbrush.core.regions.masks import check_mask
from instructbrush.tests.comfy.graphs import make_image

POCKET = "pocket finder (built in)"


@pytest.fixture(scope="module")
def finder(comfy):
    return comfy.pack("core.regions.finder_loading").load_finder()


@pytest.fixture
def shapes(repository):
    """A drawing of the pocket editor's world."""
    import numpy as np
    from PIL import Image

    file = repository / "example_workflows" / "pairs" / "light_from_the_right" / "3_0.png"
    return torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).copy())[None].float() / 255


WORDS = "square, triangle"


def find(comfy, image, finder, **changes):
    """Runs Find Region. Returns its values and the data of its panel."""
    graph = comfy.graph()
    settings = {"words": WORDS, "box_threshold": 0.5, "text_threshold": 0.5, **changes}
    links = {"image": comfy.give(graph, image), "finder": comfy.give(graph, finder)}
    node = graph.node("InstructBrushFindRegion", **links, **settings)
    run = comfy.run(graph, *(node.out(index) for index in range(5)))
    (shown,) = [data["output"] for data in run.data("executed") if "region" in (data["output"] or {})]
    return run.values, shown["region"][0]


def test_thresholds_and_clicks_do_not_run_the_finder_again(comfy, finder, shapes, monkeypatch):
    searches = []
    original = type(finder).find
    monkeypatch.setattr(type(finder), "find", lambda *given: searches.append(1) or original(*given))
    comfy.pack("nodes.regions.found_objects")._FOUND.clear()
    (mask, masks, _, bboxes, _), data = find(comfy, shapes, finder)
    objects = data["objects"][0]
    assert len(objects) >= 2 and len(bboxes[0]) == len(masks) == len(objects) and data["least"] == 0.5
    scores = [each["score"] for each in objects]
    assert scores == sorted(scores, reverse=True) and data["threshold"] == data["own_threshold"] == 0.5
    assert len(data["images"]) == 1 and (data["width"], data["height"]) == (128, 128)

    # A higher threshold gives what the finder itself gives.
    threshold = (scores[0] + scores[-1]) / 2
    (higher, *_), _ = find(comfy, shapes, finder, box_threshold=threshold)
    expected = original(finder, shapes[0], WORDS.split(", "), threshold, 0.5)
    assert 0 < len(expected) < len(objects)
    assert torch.equal(check_mask(higher[0]), torch.stack([each.mask for each in expected]).amax(0))

    first, last = objects[0]["key"], objects[-1]["key"]
    (_, some, _, bboxes, _), data = find(comfy, shapes, finder, selection=json.dumps({"out": [first]}))
    assert len(some) == len(objects) - 1 and torch.equal(some[0], masks[1]) and data["gone"] == 0
    selection = json.dumps({"in": [last, "0|igloo|0,0,9,9"]})
    (_, some, *_), data = find(comfy, shapes, finder, box_threshold=1.0, selection=selection)
    assert data["selection"] == selection
    assert len(some) == 1 and torch.equal(some[0], masks[-1]) and data["gone"] == 1
    assert len(searches) == 1
    assert some.dtype == mask.dtype == torch.float32

    find(comfy, shapes, finder, text_threshold=0.4)
    find(comfy, shapes.clone(), finder)
    assert len(searches) == 3


def test_panel_shows_the_first_images_of_a_batch_and_what_is_not_known(comfy, finder, shapes):
    batch = shapes.expand(10, -1, -1, -1).contiguous()
    (mask, *_), data = find(comfy, batch, finder, words="circle, unicorn")
    assert len(mask) == data["count"] == 10 and len(data["images"]) == len(data["objects"]) == 8
    assert "does not know unicorn" in data["remarks"][0]


def test_results_that_are_large_or_whose_image_is_gone_are_not_kept(comfy):
    kept_results = comfy.pack("nodes.shared.kept_results").KeptResults
    results = kept_results(2, lambda result: len(result) < 5)
    calls = []

    def get(owner, value, result="abc"):
        return results.get((owner,), (value,), lambda: calls.append(value) or result)

    owner, other = make_image(1), make_image(1)
    assert get(owner, 1) == get(owner, 1) == "abc" and calls == [1]
    get(other, 1)
    get(owner, 2)
    # Two are kept; the first was used least recently.
    get(owner, 1)
    assert calls == [1, 1, 2, 1]
    get(owner, 3, "too large")
    get(owner, 3, "too large")
    assert calls == [1, 1, 2, 1, 3, 3]
    del owner
    assert len(results._kept) == 0
    fresh = make_image(2)
    get(fresh, 1)
    assert calls[-1] == 1


def test_rejects_a_damaged_selection(comfy, finder, shapes):
    graph = comfy.graph()
    links = {"image": comfy.give(graph, shapes), "finder": comfy.give(graph, finder)}
    node = graph.node(
        "InstructBrushFindRegion",
        **links,
        words="hat",
        box_threshold=-1.0,
        text_threshold=-1.0,
        selection="[1]",
    )
    assert "Find Region: the chosen boxes cannot be read" in comfy.error(graph, node.out(0))
