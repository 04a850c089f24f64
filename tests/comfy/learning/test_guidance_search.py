"""Learn Instruction finds the guidance scales that suit the instruction."""

from typing import Any

import pytest

from instructbrush.tests.comfy.graphs import Parts, edit_guider, learning

# The fewest samples that allow a search.
LONG_ENOUGH: dict[str, Any] = {"segments": 5, "steps": 36, "tokens": 2}


@pytest.fixture
def compared(comfy, monkeypatch):
    """The pairs of every search."""
    run = comfy.pack("core.learning.run")
    search, found = run.find_scales, []
    monkeypatch.setattr(
        run,
        "find_scales",
        lambda denoiser, pairs, *rest: found.append(len(pairs)) or search(denoiser, pairs, *rest),
    )
    return found


def test_edit_guider_takes_the_scales_that_learning_found(comfy, compared):
    graph = comfy.graph()
    parts = Parts(graph)
    node = learning(graph, comfy, parts, preview_every=36, hold_out=1, **LONG_ENOUGH)
    comfy.forget()
    run = comfy.run(graph, node.out(0))
    instruction = run.values[0]
    assert compared == [1]  # the pair that is held out
    scales = instruction.info.text_scale, instruction.info.image_scale
    assert scales in comfy.pack("core.editing.scale_search").CANDIDATES
    messages = run.data("instructbrush.learn")
    assert messages[-1]["state"] == f"Guidance scales: text {scales[0]:g}, image {scales[1]:g}."
    guidance = [message for message in messages if message["phase"] == "guidance"]
    assert guidance[0]["detail"] == "1 of 4" and messages[-1]["phase"] == "done"
    # One at the last step, and one with the scales that were found.
    assert sum(1 for message in messages if message.get("preview")) == 2
    graph = comfy.graph()
    node = edit_guider(comfy, graph, Parts(graph), instruction=instruction, text_scale=-1.0, image_scale=-1.0)
    guider = comfy.values(graph, node.out(0))[0]
    assert (guider.text_scale, guider.image_scale) == scales


def test_a_search_can_be_left_out_and_cancelled(comfy, compared, monkeypatch):
    """A cancelled search keeps what is learned, and the next run only searches."""
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), seed=31, guidance="default", **LONG_ENOUGH)
    plain = comfy.run(graph, node.out(0)).values[0]
    assert plain.info.text_scale is None and compared == []
    callbacks = comfy.pack("nodes.comfy.learning.callbacks")
    checks, check = [], callbacks.check_interrupted

    def interrupt_in_the_search():
        checks.append(True)
        if len(checks) > LONG_ENOUGH["steps"]:
            raise callbacks.Interrupted
        check()

    monkeypatch.setattr(callbacks, "check_interrupted", interrupt_in_the_search)
    graph = comfy.graph()
    node = learning(graph, comfy, Parts(graph), seed=31, **LONG_ENOUGH)
    run = comfy.attempt(graph, node.out(0))
    assert run.error["exception_type"] == "interrupted"
    assert run.data("instructbrush.learn")[-1]["state"].startswith("Kept as ")
    assert run.data("instructbrush.learn")[-1]["phase"] == "stopped"
    monkeypatch.setattr(callbacks, "check_interrupted", check)
    comfy.forget()
    graph = comfy.graph()
    found = comfy.run(graph, learning(graph, comfy, Parts(graph), seed=31, **LONG_ENOUGH).out(0)).values[0]
    assert found.info.text_scale is not None and found.info.losses == plain.info.losses
    assert compared == [3, 3]
