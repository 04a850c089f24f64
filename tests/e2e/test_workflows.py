"""The example workflows that apply instructions and words; conversion and listing of all workflows."""

import json

import numpy as np
import pytest
from PIL import Image

from instructbrush.tests.e2e.workflows import WORKFLOWS, gains, images, node_id, with_inputs
from instructbrush.tools.examples.make_examples import MEANINGS


def test_every_link_of_the_chain_workflow_changes_the_image(server, prompts):
    prompt = prompts["apply_with_controlnet_and_lora"]
    result = server.run(prompt)
    edited = images(server, result, node_id(prompt, "SaveImage"))
    before = images(server, result, node_id(prompt, "PreviewImage"))
    assert [image.shape for image in edited] == [image.shape for image in before]
    for kind, setting in (
        ("InstructBrushApply", "strength"),
        ("LoraLoader", "strength_model"),
        ("ControlNetApplyAdvanced", "strength"),
    ):
        without = with_inputs(prompt, node_id(prompt, kind), **{setting: 0.0})
        plain = images(server, server.run(without), node_id(prompt, "SaveImage"))
        assert np.abs(plain[0] - edited[0]).mean() > 0.002, f"{kind} changes nothing"


def test_mixed_edits_differ_from_each_other_the_input_and_single_edits(server, prompts):
    prompt = prompts["mix_two_instructions"]
    result = server.run(prompt)
    blended = images(server, result, node_id(prompt, "SaveImage", "Blended"))[0]
    composed = images(server, result, node_id(prompt, "SaveImage", "Composed"))[0]
    before = images(server, result, node_id(prompt, "PreviewImage"))[0]
    blend = node_id(prompt, "InstructBrushBlend")
    alone = []
    for first, second in ((1.0, 0.0), (0.0, 1.0)):
        single = with_inputs(prompt, blend, weight_1=first, weight_2=second)
        alone.append(images(server, server.run(single), node_id(prompt, "SaveImage", "Blended"))[0])
    for each, others in ((blended, (before, *alone, composed)), (composed, (before, *alone))):
        assert min(np.abs(each - other).mean() for other in others) > 0.002


def test_found_region_workflow_edits_only_where_the_words_are(server, prompts):
    prompt = prompts["edit_only_what_words_find"]
    edited, before, masks = edit_in_region(server, prompt)
    for after, image, mask in zip(edited, before, masks, strict=True):
        assert 0.005 < (mask > 0.5).mean() < 0.5
        assert np.abs(after - image)[mask > 0.5].mean() > 0.05
        assert np.array_equal(after[mask == 0], image[mask == 0])
    other = with_inputs(prompt, node_id(prompt, "InstructBrushFindRegion"), words="background")
    other = with_inputs(other, node_id(prompt, "InstructBrushCleanRegion"), shape="fine", max_area=1.0)
    other = with_inputs(other, node_id(prompt, "InstructBrushSoftRegion"), s=0.0)
    _, _, background = edit_in_region(server, other)
    assert all((a * b).mean() < 0.5 * a.mean() for a, b in zip(masks, background, strict=True))


def test_mask_model_workflow_edits_only_inside_the_mask(server, prompts):
    prompt = prompts["edit_by_words_with_a_mask_model"]
    edited, before, masks = edit_in_region(server, prompt)
    differences = []
    for after, image, mask in zip(edited, before, masks, strict=True):
        assert np.array_equal(after[mask == 0], image[mask == 0])
        differences.append(np.abs(after - image)[mask > 0.5].mean())
    assert max(differences) > 0.03
    moved = with_inputs(prompt, node_id(prompt, "MaskComposite"), x=50)
    assert np.abs(edit_in_region(server, moved)[0][0] - edited[0]).mean() > 0.005


def edit_in_region(server, prompt):
    """Runs a workflow that edits in a region. Returns edited images, inputs and masks [H, W]."""
    result = server.run(prompt)
    where = node_id(prompt, "PreviewImage", "Region")
    edited = images(server, result, node_id(prompt, "SaveImage"))
    before = images(server, result, node_id(prompt, "PreviewImage", "Before"))
    return edited, before, [image[..., 0] for image in images(server, result, where)]


def wished_images(server, result, prompt):
    """Returns the two inputs, edits and true images of a workflow with a wish."""
    before = images(server, result, node_id(prompt, "PreviewImage", "Before"))
    truth = images(server, result, node_id(prompt, "PreviewImage", "Wished results"))
    edited = images(server, result, node_id(prompt, "SaveImage"))
    assert len(before) == len(edited) == len(truth) == 2
    return before, edited, truth


def test_explained_wish_workflow_shows_and_follows_the_meaning_in_each_image(server, prompts):
    prompt = prompts["explain_a_wish_then_edit"]
    result = server.run(prompt)
    meanings = result.outputs[node_id(prompt, "PreviewAny", "Words for each image")]["text"]
    assert tuple(meanings) == MEANINGS
    reasons = result.outputs[node_id(prompt, "PreviewAny", "Reason")]["text"]
    shown = result.outputs[node_id(prompt, "InstructBrushExplain")]["text"]
    assert all(reasons)
    assert shown == [f"{meaning}\n\n{reason}" for meaning, reason in zip(meanings, reasons, strict=True)]
    assert min(gains(*wished_images(server, result, prompt))) > 3


def test_encoded_wish_workflow_edits_better_than_the_words_alone(server, prompts):
    prompt = prompts["encode_a_wish_with_the_picture"]
    encoded_gains = gains(*wished_images(server, server.run(prompt), prompt))
    assert min(encoded_gains) > 3
    guider = node_id(prompt, "InstructBrushEditGuider")
    inputs = {name: value for name, value in prompt[guider]["inputs"].items() if name != "conditioning"}
    words = prompt[node_id(prompt, "InstructBrushEncodeInstruction")]["inputs"]["words"]
    plain = {**prompt, guider: {**prompt[guider], "inputs": {**inputs, "words": words}}}
    plain_gains = gains(*wished_images(server, server.run(plain), plain))
    assert np.mean(encoded_gains) > np.mean(plain_gains) + 1


def test_sweep_workflow_draws_a_column_for_each_value(server, prompts):
    prompt = prompts["sweep_when_the_instruction_acts"]
    # Three values and few steps: neither the links nor the sheet depend on the numbers.
    prompt = with_inputs(prompt, node_id(prompt, "InstructBrushSweepValues"), values="1000, 500, 0")
    prompt = with_inputs(prompt, node_id(prompt, "BasicScheduler"), steps=6)
    (sheet,) = images(server, server.run(prompt), node_id(prompt, "SaveImage"))
    columns = [sheet[:, 6 + 262 * column :][:, :256] for column in range(4)]
    top = sheet.shape[0] - 2 * 262
    assert sheet.shape[1] == 4 * 262 + 6 and 20 < top < 100
    # Titles are dark on white, and the rest of the top is white.
    assert all(column[: top - 6].min() < 0.5 for column in columns)
    source, none, half, full = (
        np.stack([column[top + 262 * row :][:256] for row in (0, 1)]) for column in columns
    )
    assert np.abs(full - source).mean() > max(0.05, np.abs(none - source).mean())
    for one, other in ((none, half), (half, full), (none, full)):
        assert np.abs(one - other).mean() > 0.01


@pytest.mark.parametrize("name", WORKFLOWS)
def test_command_line_converter_agrees_with_the_browser(name, server, prompts, repository):
    convert = pytest.importorskip("comfy_cli.workflow_to_api").convert_ui_to_api
    workflow = json.loads((repository / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    converted = convert(workflow, server.object_info())
    assert content(converted) == content(prompts[name])


def content(prompt):
    """Kind and inputs of each node. The view of core's Compare Images is left out: it is the position of a
    slider, which only the browser has."""
    return {
        key: (
            node["class_type"],
            {name: value for name, value in node["inputs"].items() if name != "compare_view"},
        )
        for key, node in prompt.items()
    }


@pytest.mark.parametrize("name", WORKFLOWS)
def test_templates_are_listed_with_their_images(name, server, repository):
    assert name in server.get("/workflow_templates")["instructbrush"]
    with Image.open(repository / "example_workflows" / f"{name}.jpg") as image:
        assert min(image.size) >= 256
