"""The example workflows that learn an instruction."""

import numpy as np
import pytest

from instructbrush.tests.e2e.workflows import gains, images, new_images, node_id, with_inputs


@pytest.mark.slow
def test_learning_workflow_edits_as_learned_and_reports_progress(server, prompts):
    prompt = prompts["learn_from_pairs"]
    result = server.run(prompt)
    edited = images(server, result, node_id(prompt, "SaveImage"))
    truth = images(server, result, node_id(prompt, "PreviewImage"))
    before = new_images(server, prompt)
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
def test_words_workflow_learns_from_phrases_inspects_and_measures(server, prompts):
    prompt = prompts["find_words_learn_and_measure"]
    # 120 steps instead of 300 are enough here. The test above runs all 300 steps of the same learning.
    prompt = with_inputs(prompt, node_id(prompt, "InstructBrushLearn"), steps=120)
    result = server.run(prompt)
    shown = {
        kind: result.outputs[node_id(prompt, kind)]
        for kind in ("InstructBrushUniquePhrases", "InstructBrushInspect", "InstructBrushEvaluate")
    }
    table = shown["InstructBrushUniquePhrases"]["text"][0]
    assert "sensitivity" in table and len(table.splitlines()) > 10
    assert (
        "segments" in shown["InstructBrushInspect"]["text"][0]
        and len(shown["InstructBrushInspect"]["images"]) == 2
    )
    assert "PSNR" in shown["InstructBrushEvaluate"]["text"][0]
    edited = images(server, result, node_id(prompt, "SaveImage"))
    truth = images(server, result, node_id(prompt, "PreviewImage"))
    assert np.mean(gains(new_images(server, prompt), edited, truth)) > 4


@pytest.mark.slow
def test_text_space_workflow_uses_the_added_words_and_repeats_its_image(server, prompts):
    prompt = prompts["learn_in_clip_space_and_add_words"]
    # 40 steps instead of 120: neither the links nor the noise depend on the number.
    prompt = with_inputs(prompt, node_id(prompt, "InstructBrushLearnText"), steps=40)
    edited = images(server, server.run(prompt), node_id(prompt, "SaveImage"))
    without = with_inputs(prompt, node_id(prompt, "InstructBrushAddWords"), words="")
    plain = images(server, server.run(without), node_id(prompt, "SaveImage"))
    assert np.abs(plain[0] - edited[0]).mean() > 0.002
    again = images(server, server.run(prompt), node_id(prompt, "SaveImage"))
    assert all(np.array_equal(a, b) for a, b in zip(edited, again, strict=True))


@pytest.mark.slow
def test_retouching_workflow_applies_the_look_of_the_expert(server, prompts):
    prompt = prompts["retouch_photographs_like_an_expert"]
    # 60 steps instead of 200 are enough to see that the look transfers.
    prompt = with_inputs(prompt, node_id(prompt, "InstructBrushLearn"), steps=60)
    result = server.run(prompt)
    edited = images(server, result, node_id(prompt, "SaveImage"))
    before = images(server, result, node_id(prompt, "PreviewImage", "Before"))
    truth = images(server, result, node_id(prompt, "PreviewImage", "By the expert"))
    assert len(edited) == len(before) == len(truth) == 3
    assert min(gains(before, edited, truth)) > 1
