"""Schemas of all nodes, and the nodes for pairs."""

import json
import re

import pytest
import torch
from PIL import Image

from instructbrush.tests.comfy.graphs import make_image, write_pairs
from instructbrush.tests.support.node_names import NODES

CATEGORIES = {
    "InstructBrush/loading",
    "InstructBrush/learning",
    "InstructBrush/instruction",
    "InstructBrush/editing",
    "InstructBrush/regions",
    "InstructBrush/reasoning",
    "InstructBrush/evaluation",
}


def test_pack_has_exactly_these_nodes(comfy):
    assert {name for name in comfy.nodes if name.startswith("InstructBrush")} == set(NODES)


@pytest.mark.parametrize("name", NODES)
def test_node_has_texts_defaults_and_a_category(comfy, name):
    node = comfy.nodes[name]
    schema = node.GET_SCHEMA()
    assert schema.display_name == NODES[name] and schema.description and schema.search_aliases
    assert schema.category in CATEGORIES
    assert schema.inputs and schema.outputs
    for socket in (*schema.inputs, *schema.outputs):
        assert socket.tooltip and len(socket.tooltip) < 400, socket.id
    for socket in schema.outputs:
        assert socket.display_name
    for widget in schema.inputs:
        if hasattr(widget, "default"):
            assert widget.default is not None or widget.options is not None, widget.id
    # GET /object_info sends this as JSON.
    info = json.loads(json.dumps(node.GET_NODE_INFO_V1()))
    assert info["name"] == name and info["display_name"] == NODES[name]


LEARNING = {"InstructBrushLearn", "InstructBrushLearnText", "InstructBrushLearnAdapter"}


@pytest.mark.parametrize("name", sorted(LEARNING))
def test_values_of_presets_fit_the_inputs_that_custom_begins_with(comfy, name):
    info = comfy.nodes[name].GET_NODE_INFO_V1()["input"]
    inputs = {**info["required"], **info["optional"]}
    presets = inputs["preset"][1]["values"]
    assert len(presets) >= 2
    for preset, values in presets.items():
        for each in values.keys() & inputs.keys():
            options, value = inputs[each][1], values[each]
            if "options" in options:
                assert value in options["options"], (preset, each)
            elif not isinstance(value, bool):
                assert options["min"] <= value <= options["max"], (preset, each)
            if preset == "pocket" and each != "final_learning_rate":
                assert value == options["default"], each


PAIRS = {f"InstructBrush{name}" for name in ("LoadPairs", "MakePairs", "MakePairsFromEdit")}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("before after", LEARNING | PAIRS),
        ("learn", LEARNING | PAIRS),
        (
            "instructbrush",
            LEARNING | {f"InstructBrush{name}" for name in ("LoadPairs", "Save", "Load", "Apply")},
        ),
    ],
)
def test_words_that_people_search_for_lead_to_the_first_nodes(comfy, words, wanted):
    """ComfyUI's search compares words with titles and aliases."""
    found = set()
    for name in NODES:
        schema = comfy.nodes[name].GET_SCHEMA()
        if any(words in text.lower() for text in (schema.display_name, *schema.search_aliases)):
            found.add(name)
    assert wanted <= found


@pytest.mark.parametrize("name", NODES)
def test_inputs_have_plain_labels(comfy, name):
    for each in comfy.nodes[name].GET_SCHEMA().inputs:
        assert len(each.display_name) > 2 and "_" not in each.display_name, each.id
        assert each.display_name not in ("eta", "s", "m"), each.id


def test_least_values_that_stand_for_automatic_are_marked(comfy):
    """The front end shows them as "auto"."""
    found = {
        (name.removeprefix("InstructBrush"), each.id)
        for name in NODES
        for each in comfy.nodes[name].GET_SCHEMA().inputs
        if "auto" in each.extra_dict
    }
    assert {("EditGuider", "text_scale"), ("Learn", "tokens"), ("FindRegion", "box_threshold")} <= found
    assert ("LearnAdapter", "tokens") not in found and ("Learn", "image_scale") not in found
    told = re.compile(r"\bauto \((-1|0)\) ")
    for name in NODES:
        for each in comfy.nodes[name].GET_SCHEMA().inputs:
            mark = told.search(each.tooltip)
            expected = mark is not None and float(mark[1]) == getattr(each, "min", None)
            assert expected == ("auto" in each.extra_dict), (name, each.id)


def load(graph, folder, size=0):
    return graph.node("InstructBrushLoadPairs", folder=folder, size=size)


def test_lists_folders_of_pairs(comfy):
    root = comfy.base / "input"
    write_pairs(root / "listed")
    write_pairs(root / "deep" / "er")
    for side in ("before", "after"):
        (root / "sides" / side).mkdir(parents=True)
        Image.new("RGB", (40, 24), "red").save(root / "sides" / side / "a.png")
    listed = set(comfy.pack("nodes.comfy.folders.paths").pairs_folders())
    assert {"listed", "deep/er", "sides"} <= listed
    assert not {"sides/before", "deep"} & listed


def test_loads_and_previews_pairs(comfy):
    write_pairs(comfy.base / "input" / "warm")
    graph = comfy.graph()
    node = load(graph, "warm")
    run = comfy.run(graph, node.out(0), node.out(1), node.out(2))
    assert len(run.values[0]) == 2
    (shown,) = [
        data["output"]["images"] for data in run.data("executed") if "images" in (data["output"] or {})
    ]
    assert [image["type"] for image in shown] == ["temp", "temp"]


def test_reads_a_changed_folder_again(comfy):
    folder = comfy.base / "input" / "growing"
    write_pairs(folder, 1)
    graph = comfy.graph()
    node = load(graph, "growing")
    assert len(comfy.values(graph, node.out(0))[0]) == 1
    write_pairs(folder, 3)
    assert len(comfy.values(graph, node.out(0))[0]) == 3


def test_scales_pairs(comfy):
    write_pairs(comfy.base / "input" / "large", 1, 100)
    graph = comfy.graph()
    (pairs,) = comfy.values(graph, load(graph, "large", 64).out(0))
    assert pairs[0].before.shape == (64, 64, 3)


def test_makes_pairs_of_batches(comfy):
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushMakePairs",
        before=comfy.give(graph, make_image(1, 3)),
        after=comfy.give(graph, make_image(2, 3)),
    )
    (pairs,) = comfy.values(graph, node.out(0))
    assert len(pairs) == 3 and torch.equal(pairs[1].after, make_image(2, 3)[1])


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (
            "nowhere",
            "Pairs folder 'nowhere' does not exist in ComfyUI's input folder."
            " Copy the folder there and refresh the list (key R).",
        ),
        (
            "../output",
            "Name '../output' cannot be used: it starts with a slash, or a part of it is empty or made of"
            " dots. Use a plain name such as ",
        ),
        (
            "/etc",
            "Name '/etc' cannot be used: it starts with a slash, or a part of it is empty or made of dots."
            " Use a plain name such as ",
        ),
        ("", "Name '' cannot be used: it is empty. Use a plain name such as 'snow' or 'weather/snow'."),
        (
            "a" * 300,
            f"Name '{'a' * 56}…' cannot be used: it is 300 bytes long; at most 255 are possible.",
        ),
    ],
)
def test_rejects_names_that_are_no_folder_of_pairs(comfy, folder, message):
    graph = comfy.graph()
    assert message in comfy.error(graph, load(graph, folder).out(0))


def test_rejects_a_folder_without_pairs(comfy):
    (comfy.base / "input" / "void").mkdir(parents=True, exist_ok=True)
    graph = comfy.graph()
    assert comfy.error(graph, load(graph, "void").out(0)) == (
        "Pairs folder 'void' holds no pairs. Name the images 0_0.png (before) and 0_1.png (after), 1_0.png"
        " and 1_1.png and so on, or use sub-folders before/ and after/ with equal names, or a pairs.json."
    )


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (make_image(0, 2), make_image(0, 3), "Pairs: 2 images before but 3 after."),
        (
            make_image(0, 1),
            make_image(0, 1, 32, 64),
            "Pair '0': before is 64 x 64, after is 64 x 32, which is another aspect ratio. ",
        ),
        (
            make_image(0, 1, 8, 8),
            make_image(0, 1, 8, 8),
            "Pair '0' is 8 x 8: each side needs at least 16 pixels.",
        ),
        (
            make_image(0, 1) * float("nan"),
            make_image(0, 1),
            "Pairs: image 1 of 1 holds values that are not finite.",
        ),
    ],
)
def test_rejects_batches_that_are_no_pairs(comfy, before, after, message):
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushMakePairs", before=comfy.give(graph, before), after=comfy.give(graph, after)
    )
    assert comfy.error(graph, node.out(0)).startswith(message)
