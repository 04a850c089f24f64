"""The example workflows that learn an instruction."""

import numpy as np
import pytest

from instructbrush.tests.e2e.workflows import (
    ADAPTER,
    LEARN,
    PHRASES,
    RETOUCH,
    TEXT_SPACE,
    gains,
    images,
    new_images,
    node_id,
    shortened,
    with_inputs,
)


@pytest.mark.slow
def test_learning_workflow_edits_as_learned_and_reports_progress(server, prompts, ran):
    prompt = prompts[LEARN]
    result = ran(LEARN)
    edited = images(server, result, node_id(prompt, "SaveImage"))
    before, truth = new_images(server, prompt)
    assert len(edited) == len(truth) == len(before) == 2
    assert np.mean(gains(before, edited, truth)) > 5
    # The panel gets every loss while learning runs, and the whole curve with the result.
    learn = node_id(prompt, "InstructBrushLearn")
    steps = prompt[learn]["inputs"]["steps"]
    messages = [message for message in result.data("instructbrush.learn") if message["node"] == learn]
    assert messages[-1]["step"] == messages[-1]["total"] == steps
    assert [loss for message in messages for loss in message["losses"]] == pytest.approx(
        result.outputs[learn]["learning"][0]["losses"], abs=1e-5
    )
    assert any(message.get("preview", "").startswith("data:image/jpeg") for message in messages)
    # Load Instruction lists the saved instruction at once.
    names = server.get("/object_info/InstructBrushLoad")["InstructBrushLoad"]["input"]["required"]["name"]
    assert any("light_from_the_right.safetensors" in str(part) for part in names)


@pytest.mark.slow
def test_words_workflow_learns_from_phrases_and_inspects(prompts, ran):
    prompt = prompts[PHRASES]
    result = ran(PHRASES)
    table = result.outputs[node_id(prompt, "InstructBrushUniquePhrases")]["text"][0]
    assert "sensitivity" in table and len(table.splitlines()) > 10
    inspected = result.outputs[node_id(prompt, "InstructBrushInspect")]
    assert "segments" in inspected["text"][0] and len(inspected["images"]) == 2


@pytest.mark.slow
def test_text_space_workflow_uses_the_added_words_and_repeats_its_image(server, prompts, ran):
    # Neither the links nor the noise depend on the number of steps.
    prompt = shortened(TEXT_SPACE, prompts[TEXT_SPACE])
    edited = images(server, ran(TEXT_SPACE), node_id(prompt, "SaveImage"))
    without = with_inputs(prompt, node_id(prompt, "InstructBrushAddWords"), words="")
    plain = images(server, server.run(without), node_id(prompt, "SaveImage"))
    assert np.abs(plain[0] - edited[0]).mean() > 0.002
    again = images(server, server.run(prompt), node_id(prompt, "SaveImage"))
    assert all(np.array_equal(a, b) for a, b in zip(edited, again, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [RETOUCH, ADAPTER])
def test_few_steps_teach_a_look_that_transfers(name, server, prompts, ran):
    prompt = prompts[name]
    edited = images(server, ran(name), node_id(prompt, "SaveImage"))
    before, truth = new_images(server, prompt)
    if name == ADAPTER:
        truth = [1 - image for image in before]
    assert len(edited) == len(before) == len(truth) > 1
    assert min(gains(before, edited, truth)) > 1
