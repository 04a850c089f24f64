"""Images under nodes. If they cannot be written, the node still works and the log says what is missing."""

import pytest
from PIL import Image

from instructbrush.tests.comfy.graphs import instruction, make_image


@pytest.fixture
def no_preview_folder(comfy, monkeypatch, tmp_path):
    """ComfyUI's folder for previews cannot be made, because a file is in its place."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(comfy.folder_paths, "temp_directory", str(tmp_path / "file" / "temp"))


def shown(run):
    return [data["output"] for data in run.data("executed") if data["output"]]


def load_pairs(comfy, graph):
    return graph.node("InstructBrushLoadPairs", folder="hours_passed (example)", size=64)


def make_pairs(comfy, graph):
    return graph.node(
        "InstructBrushMakePairs",
        before=comfy.give(graph, make_image(0)),
        after=comfy.give(graph, make_image(1)),
    )


def inspect(comfy, graph):
    return graph.node("InstructBrushInspect", instruction=comfy.give(graph, instruction(comfy)))


def save(comfy, graph):
    with_thumbnail = comfy.pack("nodes.shared.socket_types").with_thumbnail(
        instruction(comfy), Image.new("RGB", (32, 16), "red")
    )
    return graph.node(
        "InstructBrushSave",
        instruction=comfy.give(graph, with_thumbnail),
        name="with_preview",
        if_taken="overwrite",
    )


@pytest.mark.parametrize("node", [load_pairs, make_pairs, inspect, save])
def test_shows_images(comfy, node):
    comfy.forget()
    graph = comfy.graph()
    (output,) = shown(comfy.run(graph, node(comfy, graph).out(0)))
    assert output["images"] and output["text"]


@pytest.mark.parametrize("node", [load_pairs, make_pairs, inspect, save])
def test_runs_without_previews(comfy, no_preview_folder, caplog, node):
    comfy.forget()
    graph = comfy.graph()
    (output,) = shown(comfy.run(graph, node(comfy, graph).out(0)))
    assert not output.get("images") and output["text"]
    assert "InstructBrush: no preview can be shown: [Errno 20] Not a directory" in caplog.text
