"""Inputs that come by wire: every list, text and number accepts them, and rejects bad values when it runs."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from instructbrush.tests.comfy.graphs import instruction
from instructbrush.tests.support.node_names import NODES

UNKNOWN = "none of them"
# The built-in finder, with which the node runs here, does not read it.
UNREAD = {"sam_name"}
# Node -> its input that names a file, and a name that exists.
LOADED = {
    "InstructBrushLoad": ("name", "linked.safetensors"),
    "InstructBrushLoadPairs": ("folder", "wired"),
    "InstructBrushLoadModel": ("model_name", "pocket editor (built in)"),
    "InstructBrushLoadOpenClip": ("clip_name", "pocket CLIP (built in)"),
    "InstructBrushLoadMllm": ("mllm_name", "pocket reader (built in)"),
    "InstructBrushLoadConnector": ("connector_name", "pocket connector (built in)"),
    "InstructBrushLoadRegionFinder": ("finder_name", "pocket finder (built in)"),
}
GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "nodes.json"


def inputs_of(*kinds):
    """Returns (node, input) of all inputs of some types that can be connected."""
    return [
        pytest.param(name, key, id=f"{name}.{key}")
        for name, node in json.loads(GOLDEN.read_text(encoding="utf-8")).items()
        for key, each in node["inputs"].items()
        if each["type"] in kinds and not each.get("socketless")
    ]


def declared_input(comfy, name, key):
    """Returns an input as the node's schema declares it."""
    (found,) = [each for each in comfy.nodes[name].GET_SCHEMA().inputs if each.id == key]
    return found


def graph_with(comfy, name, linked, value):
    """A graph with a node whose input `linked` gets `value` by wire. Returns it and the node's first output.

    Other widgets have their defaults; other sockets get None.
    """
    graph = comfy.graph()
    inputs = {}
    for each in comfy.nodes[name].GET_SCHEMA().inputs:
        if each.id == linked and isinstance(value, str):
            inputs[each.id] = graph.node("PrimitiveString", value=value).out(0)
        elif each.id == linked:
            inputs[each.id] = comfy.give(graph, value)
        elif hasattr(each, "default"):
            inputs[each.id] = each.default if each.default is not None else each.options[0]
        else:
            inputs[each.id] = comfy.give(graph, None)
    return graph, graph.node(name, **inputs).out(0)


def validation_errors(comfy, graph, link):
    """Returns the errors that ComfyUI finds before it runs the graph."""
    graph.node("TestTake", key="unused", value=link)
    _, _, _, errors = asyncio.run(comfy.execution.validate_prompt("links", graph.finalize(), None))
    return errors


@pytest.fixture(autouse=True, scope="module")
def linked(comfy):
    """Writes an instruction and pairs to which links can refer. Returns the instruction's file."""
    shutil.copytree(
        comfy.pack("nodes.comfy.folders.examples").FOLDER / "pairs" / "hours_passed",
        comfy.base / "input" / "wired",
        dirs_exist_ok=True,
    )
    path = comfy.pack("nodes.comfy.folders.paths").output_instructions() / "linked.safetensors"
    return comfy.pack("core.instruction.file").save_instruction(instruction(comfy), path, overwrite=True)


def named(declared):
    """An input as errors name it: by its label, with its id if that differs."""
    label = declared.display_name
    return label if label == declared.id.replace("_", " ") else f"{label} ({declared.id})"


@pytest.mark.parametrize(("name", "key"), inputs_of("COMBO"))
def test_list_accepts_a_text_by_wire_and_rejects_unknown_texts(comfy, name, key):
    node = comfy.pack("nodes.shared.node")
    declared = declared_input(comfy, name, key)
    assert isinstance(declared, node.Choice), (
        f"{name}: {key} is a plain Combo, which accepts no text by wire: make it a Choice or a NameChoice"
    )
    assert validation_errors(comfy, *graph_with(comfy, name, key, str(declared.options[0]))) == {}
    graph, link = graph_with(comfy, name, key, UNKNOWN)
    run = comfy.attempt(graph, link)
    if key in UNREAD:
        assert run.error is None
        return
    # The error comes from the pack when the node runs, not from ComfyUI's validation.
    assert run.error["exception_type"].startswith("InstructBrush."), run.error
    message = run.error["exception_message"].strip()
    assert UNKNOWN in message
    if not isinstance(declared, node.NameChoice):
        choices = ", ".join(map(str, declared.options))
        assert (
            message
            == f"{NODES[name]}: '{UNKNOWN}' is not a choice for {named(declared)}. Choose one of: {choices}."
        )


@pytest.mark.parametrize(("name", "key"), inputs_of("STRING", "COMBO"))
def test_text_comes_by_wire_and_other_types_are_rejected(comfy, name, key):
    assert validation_errors(comfy, *graph_with(comfy, name, key, "a text")) == {}
    declared = declared_input(comfy, name, key)
    assert comfy.error(*graph_with(comfy, name, key, 5)) == (
        f"{NODES[name]}: {named(declared)} must be a text, not int. Connect a text, or write one into the "
        "node."
    )


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (("InstructBrushEditGuider"), ("words")),
        (("InstructBrushLearn"), ("init_text")),
        (("InstructBrushExplain"), ("wish")),
    ],
)
def test_rejects_half_a_character(comfy, name, key):
    message = comfy.error(*graph_with(comfy, name, key, "snow \ud83d"))
    label = named(declared_input(comfy, name, key))
    assert message == f"{NODES[name]}: {label} holds an incomplete character. Type the text again."


def test_names_an_input_through_which_nothing_came(comfy):
    graph, link = graph_with(comfy, "InstructBrushInspect", "instruction", None)
    assert comfy.error(graph, link) == (
        "Inspect Instruction: nothing came through instruction, because the node that is connected there has "
        "no result. Connect another one, or give that node what it needs."
    )


@pytest.mark.parametrize(("name", "key"), inputs_of("INT", "FLOAT"))
def test_rejects_values_that_are_no_number_or_out_of_range(comfy, name, key):
    from comfy_api.latest import io

    declared = declared_input(comfy, name, key)
    whole = isinstance(declared, io.Int.Input)
    number = "a whole number" if whole else "a number"
    wrong_types = [(None, "NoneType"), ([1], "list"), (object(), "object")]
    if whole:
        wrong_types.append((0.5, "float"))
    for value, kind in wrong_types:
        assert comfy.error(*graph_with(comfy, name, key, value)) == (
            f"{NODES[name]}: {named(declared)} must be {number}, not {kind}."
            f" Connect {number}, or write one into the node."
        )
    out_of_range = [declared.min - 1, declared.max + 1]
    if not whole:
        out_of_range.append(float("nan"))
    for value in out_of_range:
        assert comfy.error(*graph_with(comfy, name, key, value)) == (
            f"{NODES[name]}: {named(declared)} is {value}; it must lie between {declared.min} and "
            f"{declared.max}."
        )


def test_number_cannot_be_connected_to_a_list(comfy):
    graph = comfy.graph()
    link = graph.node("InstructBrushLoad", name=graph.node("PrimitiveInt", value=1).out(0)).out(0)
    assert "received_type(INT) mismatch input_type(COMBO)" in comfy.error(graph, link)


def test_validation_still_checks_values_chosen_in_the_node(comfy):
    graph = comfy.graph()
    link = graph.node(
        "InstructBrushSave", instruction=comfy.give(graph, None), name="x", if_taken=UNKNOWN
    ).out(0)
    assert (
        f"Value not in list: if_taken: '{UNKNOWN}' not in ['add a number', 'refuse', 'overwrite']"
        in comfy.error(graph, link)
    )


@pytest.mark.parametrize("name", LOADED)
def test_name_by_wire_loads_its_file_once(comfy, name):
    graph, link = graph_with(comfy, name, *LOADED[name])
    first = comfy.values(graph, link)[0]
    assert first is not None
    assert comfy.values(graph, link)[0] is first


def test_reads_a_changed_instruction_by_wire_again(comfy, linked):
    graph, link = graph_with(comfy, "InstructBrushLoad", "name", linked.name)
    first = comfy.values(graph, link)[0]
    comfy.pack("core.instruction.file").save_instruction(instruction(comfy, 7), linked, overwrite=True)
    second = comfy.values(graph, link)[0]
    assert not second.context.equal(first.context)
    assert comfy.values(graph, link)[0] is second


def test_reads_pairs_by_wire_again_when_one_is_gone(comfy):
    graph, link = graph_with(comfy, "InstructBrushLoadPairs", "folder", "wired")
    first = comfy.values(graph, link)[0]
    for image in (comfy.base / "input" / "wired").glob("0_*.png"):
        image.unlink()
    assert len(comfy.values(graph, link)[0]) == len(first) - 1


def test_notices_changes_behind_each_of_several_names_by_wire(comfy, linked):
    other = linked.with_stem("linked_too")
    shutil.copy(linked, other)
    graph = comfy.graph()
    loads = [
        graph.node("InstructBrushLoad", name=graph.node("PrimitiveString", value=path.name).out(0)).out(0)
        for path in (linked, other)
    ]
    before = comfy.values(graph, *loads)
    other.unlink()
    assert "Instruction 'linked_too.safetensors' was not found" in comfy.error(graph, *loads)
    comfy.pack("core.instruction.file").save_instruction(instruction(comfy, 9), other)
    after = comfy.values(graph, *loads)
    assert after[0].context.equal(before[0].context) and not after[1].context.equal(before[1].context)


def test_text_by_wire_names_the_file_and_the_study(comfy):
    graph = comfy.graph()
    name = graph.node("PrimitiveString", value="weather/wired").out(0)
    saved = comfy.values(
        graph,
        graph.node(
            "InstructBrushSave",
            instruction=comfy.give(graph, instruction(comfy)),
            name=name,
            if_taken="overwrite",
        ).out(1),
    )
    assert saved == [str(comfy.base / "output" / "instructions" / "weather" / "wired.safetensors")]
    graph = comfy.graph()
    study = graph.node("PrimitiveString", value="../wired").out(0)
    message = comfy.error(graph, graph.node("InstructBrushPreference", study=study).out(0))
    assert message.startswith(
        "Name '../wired' cannot be used: it starts with a slash, or a part of it is empty or made of dots."
    )
