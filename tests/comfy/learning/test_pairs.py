"""Load Edit Pairs and Make Edit Pairs: folders, lists, and remarks in the node."""

import pytest
import torch
from PIL import Image

from instructbrush.tests.comfy.graphs import make_image


def write(comfy, folder, **sizes):
    """Writes images of (width, height) to a folder in ``input``."""
    for name, size in sizes.items():
        path = comfy.base / "input" / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").resize(size).convert("RGB").save(path)
    return folder


def shown(run):
    return [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})]


def test_shows_left_out_pairs_and_changes_in_the_node(comfy):
    folder = write(comfy, "mixed", a_before=(64, 64), a_after=(32, 32), b_before=(64, 64), b_after=(64, 64))
    (comfy.base / "input" / folder / "b_after.png").write_bytes(b"no image")
    graph = comfy.graph()
    run = comfy.run(graph, graph.node("InstructBrushLoadPairs", folder=folder, size=0).out(0))
    (pairs,) = run.values
    assert [tuple(pair.before.shape) for pair in pairs] == [(32, 32, 3)]
    ((text,),) = shown(run)
    damaged, count, scaled = text.splitlines()
    assert (
        damaged.startswith("Left out: Image 'b_after.png' cannot be read (")
        and count == "1 pair left out, 1 pair remains."
    )
    assert scaled == "1 pair: before and after differ in size: the larger image is scaled to the smaller one."


@pytest.mark.parametrize("size", [0, 64])
def test_rejects_two_aspect_ratios_unless_fit_allows_them(comfy, size):
    folder = write(comfy, "ratios", a_before=(128, 96), a_after=(96, 128))
    graph = comfy.graph()
    message = (
        "Pair 'a': before is 128 x 96, after is 96 x 128, which is another aspect ratio. Crop or scale both "
        "alike, or set fit to crop or pad."
    )
    assert (
        comfy.error(graph, graph.node("InstructBrushLoadPairs", folder=folder, size=size).out(0)) == message
    )
    for fit in ("crop", "pad"):
        graph = comfy.graph()
        (pairs,) = comfy.values(
            graph, graph.node("InstructBrushLoadPairs", folder=folder, size=size, fit=fit).out(0)
        )
        assert pairs[0].before.shape == pairs[0].after.shape == ((64, 64, 3) if size else (96, 128, 3))


def test_joins_lists_to_one_set_of_pairs(comfy):
    folder = write(comfy, "sizes", a_before=(64, 48), a_after=(64, 48), b_before=(32, 32), b_after=(32, 32))
    graph = comfy.graph()
    loaded = graph.node("InstructBrushLoadPairs", folder=folder, size=0)
    node = graph.node("InstructBrushMakePairs", before=loaded.out(1), after=loaded.out(2))
    run = comfy.run(graph, loaded.out(0), node.out(0))
    assert [each["value"] for each in run.data("progress")] == [1, 2]
    first, second = run.values
    assert len(second) == 2 and all(
        torch.equal(one.before, other.before) and torch.equal(one.after, other.after)
        for one, other in zip(first, second, strict=True)
    )
    graph = comfy.graph()
    batch = graph.node("ImageFromBatch", image=comfy.give(graph, make_image(0, 3)), batch_index=0, length=3)
    node = graph.node(
        "InstructBrushMakePairs",
        before=batch.out(0),
        after=comfy.give(graph, make_image(1, 3, 64, 128)),
        fit="crop",
    )
    run = comfy.run(graph, node.out(0))
    assert len(run.values[0]) == 3 and run.values[0][2].after.shape == (64, 64, 3)
    assert shown(run) == [
        [
            "3 pairs: before and after differ in aspect ratio: the larger image is scaled and cropped to the "
            "smaller one."
        ]
    ]


def test_names_lists_with_more_images_before_than_after(comfy):
    folder = write(comfy, "three", a_before=(32, 32), a_after=(32, 32), b_before=(32, 32), b_after=(32, 32))
    graph = comfy.graph()
    loaded = graph.node("InstructBrushLoadPairs", folder=folder, size=0)
    node = graph.node(
        "InstructBrushMakePairs", before=loaded.out(1), after=comfy.give(graph, make_image(0, 1, 32, 32))
    )
    assert comfy.error(graph, node.out(0)).startswith(
        "Pairs: 2 images before but 1 after. Every image needs its partner"
    )
