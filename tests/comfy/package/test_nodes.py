"""What every node shows of itself, and the pairs nodes."""

import json

import pytest
import torch
from PIL import Image

from instructbrush.tests.comfy.graphs import make_image

NODES = {
    "InstructBrushLoadModel": "Load InstructPix2Pix",
    "InstructBrushLoadPairs": "Load Edit Pairs",
    "InstructBrushMakePairs": "Make Edit Pairs",
    "InstructBrushLoadOpenClip": "Load OpenCLIP",
    "InstructBrushUniquePhrases": "Unique Phrases",
    "InstructBrushCaptionInit": "Caption Init",
    "InstructBrushLearn": "Learn Instruction",
    "InstructBrushLearnText": "Learn Instruction (CLIP space)",
    "InstructBrushSave": "Save Instruction",
    "InstructBrushLoad": "Load Instruction",
    "InstructBrushApply": "Apply Instruction",
    "InstructBrushEditGuider": "Edit Guider",
    "InstructBrushFixedNoise": "Fixed Noise",
    "InstructBrushScale": "Scale Instruction",
    "InstructBrushBlend": "Blend Instructions",
    "InstructBrushCompose": "Compose Instructions",
    "InstructBrushAddWords": "Add Words to Instruction",
    "InstructBrushInspect": "Inspect Instruction",
    "InstructBrushLoadRegionFinder": "Load Region Finder",
    "InstructBrushFindRegion": "Find Region",
    "InstructBrushCleanRegion": "Clean Region",
    "InstructBrushSoftRegion": "Soft Region",
    "InstructBrushCombineRegions": "Combine Regions",
    "InstructBrushPasteBack": "Paste Back",
    "InstructBrushRegionEdit": "Region Edit",
    "InstructBrushRegionConditioning": "Region Conditioning",
    "InstructBrushLoadMllm": "Load MLLM",
    "InstructBrushExplain": "Explain Instruction (MLLM)",
    "InstructBrushLoadConnector": "Load Connector",
    "InstructBrushEncodeInstruction": "Encode Instruction (MLLM)",
    "InstructBrushEvaluate": "Evaluate Edit",
    "InstructBrushPreference": "Judge Preference",
}


def test_the_pack_has_these_nodes(comfy):
    assert {name for name in comfy.nodes if name.startswith("InstructBrush")} == set(NODES)


@pytest.mark.parametrize("name", NODES)
def test_every_node_explains_itself(comfy, name):
    node = comfy.nodes[name]
    schema = node.GET_SCHEMA()
    assert schema.display_name == NODES[name] and schema.description and schema.search_aliases
    assert schema.category in {
        f"InstructBrush/{room}"
        for room in ("loading", "learning", "instruction", "editing", "regions", "reasoning", "evaluation")
    }
    for socket in (*schema.inputs, *schema.outputs):
        assert socket.tooltip and len(socket.tooltip) < 400, socket.id
    for socket in schema.outputs:
        assert socket.display_name
    widgets = [socket for socket in schema.inputs if hasattr(socket, "default")]
    for widget in widgets:
        options = getattr(widget, "options", None)
        assert widget.default is not None or options is not None, widget.id
    assert json.dumps(node.GET_NODE_INFO_V1()) if hasattr(node, "GET_NODE_INFO_V1") else True


def write_pairs(folder, count=2, side=32):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        for place in (0, 1):
            pixels = (
                (make_image(10 * index + place, height=side, width=side)[0] * 255).to(torch.uint8).numpy()
            )
            Image.fromarray(pixels).save(folder / f"{index}_{place}.png")


def load(comfy, graph, folder, size=0):
    return graph.node("InstructBrushLoadPairs", folder=folder, size=size)


def test_pairs_are_read_previewed_and_listed(comfy):
    root = comfy.base / "input"
    write_pairs(root / "warm")
    write_pairs(root / "deep" / "er")
    (root / "sides" / "before").mkdir(parents=True)
    (root / "sides" / "after").mkdir()
    for part in ("before", "after"):
        Image.new("RGB", (40, 24), "red").save(root / "sides" / part / "a.png")
    listed = comfy.pack("nodes.comfy.folders.paths").pairs_folders()
    assert (
        {"warm", "deep/er", "sides"} <= set(listed) and "sides/before" not in listed and "deep" not in listed
    )
    graph = comfy.graph()
    node = load(comfy, graph, "warm")
    run = comfy.run(graph, node.out(0), node.out(1), node.out(2))
    assert len(run.values[0]) == 2
    shown = [data["output"]["images"] for data in run.data("executed") if "images" in (data["output"] or {})]
    assert shown and len(shown[0]) == 2 and all(image["type"] == "temp" for image in shown[0])


def test_a_changed_folder_is_read_again(comfy):
    folder = comfy.base / "input" / "growing"
    write_pairs(folder, 1)
    graph = comfy.graph()
    node = load(comfy, graph, "growing")
    assert len(comfy.values(graph, node.out(0))[0]) == 1
    write_pairs(folder, 3)
    assert len(comfy.values(graph, node.out(0))[0]) == 3


def test_pairs_are_scaled(comfy):
    write_pairs(comfy.base / "input" / "large", 1, 100)
    graph = comfy.graph()
    (pairs,) = comfy.values(graph, load(comfy, graph, "large", 64).out(0))
    assert pairs[0].before.shape == (64, 64, 3)


def test_pairs_of_batches(comfy):
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
            "Pairs folder 'nowhere' does not exist in ComfyUI's input folder. Copy the folder there and refresh the list (key R).",
        ),
        (
            "../output",
            "Name '../output' cannot be used: it starts with a slash, or a part of it is empty or made of dots. Use a plain name such as ",
        ),
        (
            "/etc",
            "Name '/etc' cannot be used: it starts with a slash, or a part of it is empty or made of dots. Use a plain name such as ",
        ),
        ("", "Name '' cannot be used: it is empty. Use a plain name such as 'snow' or 'weather/snow'."),
        (
            "a" * 300,
            "Name 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…' cannot be used: it is 300 bytes long, at most 255 are possible.",
        ),
    ],
)
def test_folders_that_are_none_are_refused(comfy, folder, message):
    graph = comfy.graph()
    assert message in comfy.error(graph, load(comfy, graph, folder).out(0))


def test_an_empty_folder_is_refused(comfy):
    (comfy.base / "input" / "void").mkdir(parents=True, exist_ok=True)
    graph = comfy.graph()
    assert comfy.error(graph, load(comfy, graph, "void").out(0)) == (
        "Pairs folder 'void' holds no pairs. Name the images 0_0.png (before) and 0_1.png (after), 1_0.png and 1_1.png and so on, "
        "or use sub-folders before/ and after/ with equal names, or a pairs.json."
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
def test_batches_that_are_no_pairs_are_refused(comfy, before, after, message):
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushMakePairs", before=comfy.give(graph, before), after=comfy.give(graph, after)
    )
    assert comfy.error(graph, node.out(0)).startswith(message)
