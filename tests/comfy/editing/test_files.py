"""Save and Load Instruction: folders, metadata, and rejected names and files."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from instructbrush.tests.comfy.graphs import Parts, applied, conditioned, instruction, learning, make_image


def save(comfy, learned, name, if_taken="refuse"):
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushSave",
        instruction=comfy.give(graph, learned),
        name=name,
        if_taken=if_taken,
        precision="fp32",
    )
    return graph, node


def saved(comfy, learned, name, if_taken="refuse", **extra_data):
    graph, node = save(comfy, learned, name, if_taken)
    return Path(comfy.values(graph, node.out(1), **extra_data)[0])


def header(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def loaded(comfy, name):
    graph = comfy.graph()
    return comfy.values(graph, graph.node("InstructBrushLoad", name=name).out(0))[0]


def test_lists_saved_files_at_once_and_loads_them(comfy):
    learned = instruction(comfy, 4)
    graph, node = save(comfy, learned, "weather/snow")
    run = comfy.run(graph, node.out(1))
    path = Path(run.values[0])
    texts = [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})]
    assert texts == [["Saved to output/instructions/weather/snow.safetensors"]]
    assert path == comfy.base / "output" / "instructions" / "weather" / "snow.safetensors"
    assert "weather/snow.safetensors" in comfy.pack("nodes.comfy.folders.paths").instruction_names()
    again = loaded(comfy, "weather/snow.safetensors")
    assert again.info.title == "snow" and torch.equal(again.context, learned.context)
    assert all(
        torch.equal(again.keys[site], learned.keys[site])
        and torch.equal(again.values[site], learned.values[site])
        for site in learned.keys
    )


def test_lists_files_in_the_models_folder(comfy):
    path = saved(comfy, instruction(comfy, 4), "here")
    there = comfy.base / "models" / "instructions" / "there.safetensors"
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_bytes(path.read_bytes())
    assert {"here.safetensors", "there.safetensors"} <= set(
        comfy.pack("nodes.comfy.folders.paths").instruction_names()
    )
    assert loaded(comfy, "there.safetensors").info.title == "here"


def test_numbers_rejects_or_replaces_a_taken_name(comfy):
    first, second = instruction(comfy, 1), instruction(comfy, 2)
    path = saved(comfy, first, "taken")
    bytes_before = path.read_bytes()
    graph, node = save(comfy, second, "taken", "refuse")
    assert (
        comfy.error(graph, node.out(1))
        == f"Save instruction: '{path}' exists already. Choose another name, or allow it to be overwritten."
    )
    assert saved(comfy, second, "taken", "add a number").name == "taken_2.safetensors"
    assert saved(comfy, second, "taken", "add a number").name == "taken_3.safetensors"
    assert path.read_bytes() == bytes_before
    assert saved(comfy, second, "taken", "overwrite") == path and path.read_bytes() != bytes_before


def test_reads_a_replaced_file_again(comfy):
    saved(comfy, instruction(comfy, 1), "again", "overwrite")
    graph = comfy.graph()
    link = graph.node("InstructBrushLoad", name="again.safetensors").out(0)
    first = comfy.values(graph, link)[0]
    saved(comfy, instruction(comfy, 2), "again", "overwrite")
    second = comfy.values(graph, link)[0]
    assert not torch.equal(first.context, second.context)


def test_stores_workflow_and_thumbnail(comfy):
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushSave",
        instruction=learning(graph, comfy, Parts(graph)).out(0),
        name="with_metadata",
        if_taken="overwrite",
    )
    workflow = {"nodes": [], "version": 0.4}
    path = Path(comfy.values(graph, node.out(1), extra_pnginfo={"workflow": workflow})[0])
    metadata = header(path)
    assert json.loads(metadata["workflow"]) == workflow and json.loads(metadata["prompt"])
    assert metadata["modelspec.thumbnail"].startswith("data:image/jpeg;base64,") and json.loads(
        metadata["ssmd_cover_images"]
    )
    graph = comfy.graph()
    run = comfy.run(graph, graph.node("InstructBrushLoad", name="with_metadata.safetensors").out(0))
    assert run.values[0].thumbnail.size == (256, 128)


def test_disable_metadata_leaves_out_the_workflow(comfy, monkeypatch):
    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_metadata", True)
    path = saved(comfy, instruction(comfy), "silent", extra_pnginfo={"workflow": {"nodes": []}})
    assert not {"workflow", "prompt"} & set(header(path))


_DOTS = "it starts with a slash, or a part of it is empty or made of dots"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../escaped", _DOTS),
        ("/tmp/escaped", _DOTS),
        ("a/../../escaped", _DOTS),
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("a//b", _DOTS),
        ("..", _DOTS),
        ("a\\..\\..\\b", "it holds a backslash"),
        ("a" * 243, "it is 243 bytes long; at most 235 are possible"),
        ("a" * 300, "it is 300 bytes long; at most 235 are possible"),
        ("雪" * 100, "it is 300 bytes long; at most 235 are possible"),
        ("deep/" * 1000 + "x", r"its path would be \d{4} bytes long; at most 4000 are possible"),
        ("nul\0", "it holds a control character"),
        ("aux", "'aux' is reserved on Windows"),
    ],
    ids=lambda value: value[:12].encode("ascii", "replace").decode(),
)
def test_rejects_invalid_names(comfy, name, reason):
    graph, node = save(comfy, instruction(comfy), name)
    message = comfy.error(graph, node.out(1))
    assert re.fullmatch(
        rf"Name '.*' cannot be used: {reason}\. Use a plain name such as 'snow' or 'weather/snow'\.", message
    ), message
    assert not list(comfy.base.parent.glob("**/escaped*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "missing.safetensors",
            "Instruction 'missing.safetensors' was not found in models/instructions or output/instructions. ",
        ),
        ("../secret.safetensors", "Name '../secret.safetensors' cannot be used: "),
    ],
)
def test_rejects_missing_files(comfy, name, message):
    graph = comfy.graph()
    assert message in comfy.error(graph, graph.node("InstructBrushLoad", name=name).out(0))


def test_rejects_damaged_and_foreign_files(comfy):
    folder = comfy.base / "output" / "instructions"
    path = saved(comfy, instruction(comfy), "whole", "overwrite")
    (folder / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    save_file({"a": torch.zeros(2)}, folder / "foreign.safetensors")
    tensors = {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, folder / "newer.safetensors", {**metadata, "instructbrush.version": "99"})

    def message(name):
        graph = comfy.graph()
        return comfy.error(graph, graph.node("InstructBrushLoad", name=name).out(0))

    assert message("cut.safetensors").startswith("Instruction file 'cut.safetensors': the file is cut short")
    assert message("foreign.safetensors") == (
        "'foreign.safetensors' is a safetensors file but not an instruction. "
        "Choose a file that Save Instruction wrote."
    )
    assert message("newer.safetensors") == (
        "Instruction file 'newer.safetensors' has format 99; this version reads up to 3. "
        "Update InstructBrush."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"segment_strengths": "1, x"},
            "Segment strengths: '1, x' is not a list of numbers (could not convert string to float: ' x'). ",
        ),
        (
            {"segment_strengths": "1, 2, 3"},
            "Segment strengths: 3 values were given, but the instruction has 5 segments. ",
        ),
        (
            {"segment_strengths": "nan"},
            "Strength: 1.0 with segment strengths [nan, nan, nan, nan, nan] is not finite. ",
        ),
    ],
)
def test_rejects_invalid_segment_strengths(comfy, changes, message):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, _, _ = conditioned(graph, parts, comfy.give(graph, make_image()))
    model, _ = applied(graph, comfy, parts.model, positive, instruction(comfy), **changes)
    assert comfy.error(graph, model).startswith(message)


def test_rejects_more_tokens_than_the_text_window_has(comfy):
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), tokens=32)
    assert comfy.error(graph, node.out(0)) == (
        "Learning: 32 tokens from row 1 do not fit the text encoder's 32 rows. Use at most 31 tokens."
    )


@pytest.mark.parametrize("space", ["attention", "adapter"])
def test_half_precision_halves_the_file_and_keeps_the_edit(comfy, space):
    learned = instruction(comfy, 6, space=space)
    whole = saved(comfy, learned, f"precision/{space}", if_taken="overwrite")
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushSave",
        instruction=comfy.give(graph, learned),
        name="precision/half",
        if_taken="overwrite",
    )
    half = Path(comfy.values(graph, node.out(1))[0])
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    for name, tensor in loaded(comfy, "precision/half.safetensors").learned().items():
        assert torch.equal(tensor, learned.learned()[name].half().float())
