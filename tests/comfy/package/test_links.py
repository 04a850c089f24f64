"""Inputs that come by wire: every list and every text of every node takes them, and says when it runs what it cannot use."""

import asyncio
import shutil

import pytest

from instructbrush.tests.comfy.graphs import instruction
from instructbrush.tests.comfy.package.test_nodes import NODES

UNKNOWN = "none of them"
UNREAD = {"sam_name"}
"""Of no use to the built-in finder, with which the node runs here."""
LOADED = {
    "InstructBrushLoad": ("name", "linked.safetensors"),
    "InstructBrushLoadPairs": ("folder", "wired"),
    "InstructBrushLoadModel": ("model_name", "pocket editor (built in)"),
    "InstructBrushLoadOpenClip": ("clip_name", "pocket CLIP (built in)"),
    "InstructBrushLoadMllm": ("mllm_name", "pocket reader (built in)"),
    "InstructBrushLoadConnector": ("connector_name", "pocket connector (built in)"),
    "InstructBrushLoadRegionFinder": ("finder_name", "pocket finder (built in)"),
}
"""Node -> its input that names a file, and what is there."""


def inputs_of(comfy, name, kind):
    """The inputs of a node that are of a kind and may be connected."""
    return [
        each
        for each in comfy.nodes[name].GET_SCHEMA().inputs
        if isinstance(each, kind) and not getattr(each, "socketless", None)
    ]


def graph_with(comfy, name, linked, value):
    """A graph with the node: every text is ``value`` by wire where it is ``linked``, other widgets have their defaults, sockets get nothing that is of use."""
    graph = comfy.graph()
    given = {}
    for each in comfy.nodes[name].GET_SCHEMA().inputs:
        if each.id == linked:
            given[each.id] = (
                graph.node("PrimitiveString", value=value).out(0)
                if isinstance(value, str)
                else comfy.give(graph, value)
            )
        elif hasattr(each, "default"):
            given[each.id] = each.default if each.default is not None else each.options[0]
        else:
            given[each.id] = comfy.give(graph, None)
    return graph, graph.node(name, **given).out(0)


def refusals(comfy, graph, link):
    """What ComfyUI refuses before the run."""
    graph.node("TestTake", key="unused", value=link)
    _, _, _, errors = asyncio.run(comfy.execution.validate_prompt("links", graph.finalize(), None))
    return errors


@pytest.fixture(autouse=True, scope="module")
def linked(comfy):
    """An instruction and pairs that links can name; returns the instruction's file."""
    shutil.copytree(
        comfy.pack("nodes.comfy.folders.examples").FOLDER / "pairs" / "hours_passed",
        comfy.base / "input" / "wired",
        dirs_exist_ok=True,
    )
    path = comfy.pack("nodes.comfy.folders.paths").output_instructions() / "linked.safetensors"
    return comfy.pack("core.instruction.file").save_instruction(instruction(comfy), path, overwrite=True)


@pytest.mark.parametrize("name", NODES)
def test_every_list_takes_a_text_by_wire_and_refuses_unknown_ones_in_one_sentence(comfy, name):
    from comfy_api.latest import io

    node = comfy.pack("nodes.shared.node")
    for each in inputs_of(comfy, name, io.Combo.Input):
        assert isinstance(each, node.Choice), (
            f"{name}: {each.id} is a plain Combo, which takes no text by wire: make it a Choice or a NameChoice"
        )
        assert refusals(comfy, *graph_with(comfy, name, each.id, str(each.options[0]))) == {}
        assert refusals(comfy, *graph_with(comfy, name, each.id, UNKNOWN)) == {}
        if each.id in UNREAD:
            continue
        run = comfy.attempt(*graph_with(comfy, name, each.id, UNKNOWN))
        assert run.error["exception_type"].startswith(f"{comfy.name}.core.errors."), run.error
        assert UNKNOWN in run.error["exception_message"]
        if not isinstance(each, node.NameChoice):
            title = NODES[name]
            assert run.error["exception_message"].strip() == (
                f"{title}: '{UNKNOWN}' is no choice for {each.id}. Choose one of: {', '.join(map(str, each.options))}."
            )


@pytest.mark.parametrize("name", NODES)
def test_every_text_comes_by_wire_and_nothing_else_does(comfy, name):
    from comfy_api.latest import io

    for each in inputs_of(comfy, name, (io.String.Input, io.Combo.Input)):
        assert refusals(comfy, *graph_with(comfy, name, each.id, "a text")) == {}
        message = comfy.error(*graph_with(comfy, name, each.id, 5))
        assert (
            message
            == f"{NODES[name]}: {each.id} must be a text, not int. Connect a text, or write one into the node."
        )


def test_half_a_character_is_refused(comfy):
    for name, field in (
        ("InstructBrushEditGuider", "words"),
        ("InstructBrushLearn", "init_text"),
        ("InstructBrushExplain", "wish"),
    ):
        message = comfy.error(*graph_with(comfy, name, field, "snow \ud83d"))
        assert message == f"{NODES[name]}: {field} holds half a character. Write it anew."


@pytest.mark.parametrize("name", NODES)
def test_what_is_no_number_is_refused(comfy, name):
    from comfy_api.latest import io

    for each in inputs_of(comfy, name, (io.Int.Input, io.Float.Input)):
        whole = "whole " if isinstance(each, io.Int.Input) else ""
        for value, fault in (
            (None, "NoneType"),
            ([1], "list"),
            (object(), "object"),
            *([(0.5, "float")] if whole else []),
        ):
            message = comfy.error(*graph_with(comfy, name, each.id, value))
            assert (
                message
                == f"{NODES[name]}: {each.id} must be a {whole}number, not {fault}. Connect a {whole}number, or write one into the node."
            )
        for value in (each.min - 1, each.max + 1, *([] if whole else [float("nan")])):
            message = comfy.error(*graph_with(comfy, name, each.id, value))
            assert (
                message
                == f"{NODES[name]}: {each.id} is {value}; it must lie between {each.min} and {each.max}."
            )


def test_what_is_no_text_is_not_connected_with_a_list(comfy):
    graph = comfy.graph()
    link = graph.node("InstructBrushLoad", name=graph.node("PrimitiveInt", value=1).out(0)).out(0)
    assert "received_type(INT) mismatch input_type(COMBO)" in comfy.error(graph, link)


def test_values_that_are_chosen_in_the_node_are_still_looked_up(comfy):
    graph = comfy.graph()
    link = graph.node(
        "InstructBrushSave", instruction=comfy.give(graph, None), name="x", if_taken=UNKNOWN
    ).out(0)
    assert (
        f"Value not in list: if_taken: '{UNKNOWN}' not in ['add a number', 'refuse', 'overwrite']"
        in comfy.error(graph, link)
    )


@pytest.mark.parametrize("name", LOADED)
def test_names_by_wire_load_what_they_name_once(comfy, name):
    graph, link = graph_with(comfy, name, *LOADED[name])
    first = comfy.values(graph, link)[0]
    assert first is not None
    assert comfy.values(graph, link)[0] is first


def test_an_instruction_that_comes_by_wire_is_read_again_when_it_has_changed(comfy, linked):
    graph, link = graph_with(comfy, "InstructBrushLoad", "name", linked.name)
    first = comfy.values(graph, link)[0]
    comfy.pack("core.instruction.file").save_instruction(instruction(comfy, 7), linked, overwrite=True)
    second = comfy.values(graph, link)[0]
    assert not second.context.equal(first.context)
    assert comfy.values(graph, link)[0] is second


def test_pairs_that_come_by_wire_are_read_again_when_one_is_gone(comfy):
    graph, link = graph_with(comfy, "InstructBrushLoadPairs", "folder", "wired")
    first = comfy.values(graph, link)[0]
    for image in (comfy.base / "input" / "wired").glob("0_*.png"):
        image.unlink()
    assert len(comfy.values(graph, link)[0]) == len(first) - 1


def test_of_several_names_by_wire_each_is_followed(comfy, linked):
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


def test_a_text_by_wire_names_the_file_and_the_study(comfy):
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
