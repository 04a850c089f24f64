"""Explain Instruction in a real ComfyUI."""

import numpy as np
import torch

from instructbrush.tests.comfy.graphs import Parts, make_image
from instructbrush.tests.comfy.reasoning.reasoning_graphs import WISH, clip_encode, explain, load_mllm
from instructbrush.tools.pocket.wishes.wishes import sample_wish


def shown_texts(run):
    return [data["output"]["text"] for data in run.data("executed") if "text" in (data["output"] or {})]


def test_turns_a_wish_into_an_instruction_and_shows_it(comfy):
    graph = comfy.graph()
    node = explain(comfy, graph, make_image(1, 2))
    run = comfy.run(graph, node.out(0), node.out(1))
    assert run.values == ["make it night", "hours pass"]
    assert shown_texts(run) == [["make it night\n\nhours pass"]]
    assert run.data("progress")


def test_falls_back_to_the_wish_with_a_warning(comfy, caplog):
    graph = comfy.graph()
    node = explain(comfy, graph, make_image(1), max_tokens=8)
    run = comfy.run(graph, node.out(0), node.out(1))
    assert run.values == [WISH, ""]
    ((shown,),) = shown_texts(run)
    warning = "tiny gave no usable answer, so your own words are used. There was no JSON in it."
    assert shown.startswith(f"{WISH}\n\nWarning: {warning}")
    assert "tiny gave no usable answer" in caplog.text


def test_instruction_encodes_like_typed_words(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    instruction = explain(comfy, graph, make_image(1)).out(0)
    explained, typed = comfy.values(
        graph, clip_encode(graph, parts, instruction), clip_encode(graph, parts, "make it night")
    )
    assert torch.equal(explained[0][0], typed[0][0])


def test_rejects_an_empty_wish(comfy):
    graph = comfy.graph()
    message = comfy.error(graph, explain(comfy, graph, make_image(1), "  ").out(0))
    assert "Explain Instruction: the wish is empty. Write a wish" in message


def test_cancel_interrupts_the_node(comfy, monkeypatch):
    import comfy.model_management as management

    progress = comfy.pack("nodes.comfy.encoders.progress")
    check_interrupted = progress.check_interrupted
    calls = []

    def cancel_at_the_second_call():
        calls.append(None)
        if len(calls) == 2:
            management.interrupt_current_processing(True)
        check_interrupted()

    monkeypatch.setattr(progress, "check_interrupted", cancel_at_the_second_call)
    graph = comfy.graph()
    run = comfy.attempt(graph, explain(comfy, graph, make_image(1), "something else").out(0))
    assert run.error["exception_type"] == "interrupted"


def test_lists_the_edits_of_several_clauses(comfy):
    wish = sample_wish(np.random.default_rng(1), "traffic_light")
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushExplain",
        mllm=load_mllm(graph, "pocket reader (built in)"),
        image=comfy.give(graph, torch.from_numpy(wish.before)[None]),
        wish=f"{wish.words}; it should hang in a museum",
        max_edits=3,
    )
    run = comfy.run(graph, *(node.out(place) for place in range(3)))
    lines = [wish.instruction, "add a brown frame"]
    assert run.values[0] == " and ".join(lines)
    assert run.values[2] == "\n".join(lines)
    assert shown_texts(run) == [["\n".join(lines) + f"\n\n{run.values[1]}"]]


def test_list_of_one_edit_is_the_instruction(comfy):
    graph = comfy.graph()
    node = explain(comfy, graph, make_image(1))
    assert comfy.values(graph, node.out(0), node.out(2)) == ["make it night"] * 2


def test_own_words_are_the_edits_if_no_list_is_given(comfy):
    graph = comfy.graph()
    node = explain(comfy, graph, make_image(1), "let it be night, and then it should snow", max_edits=3)
    run = comfy.run(graph, node.out(0), node.out(2))
    assert run.values[1] == "let it be night\nit should snow"
    ((shown,),) = shown_texts(run)
    assert "Warning: tiny gave no usable answer, so your own words are used." in shown
