"""The example workflows that apply instructions and words; conversion and listing of all workflows."""

import json

import numpy as np
import pytest
from PIL import Image

from instructbrush.tests.e2e.workflows import (
    BY_STEPS,
    CHAIN,
    ENCODED,
    EXPLAINED,
    FOUND,
    MASK_MODEL,
    MEASURED,
    MIX,
    NAMED,
    PUBLIC_MODEL,
    SLIDER,
    STRENGTHS,
    WHEN,
    WORKFLOWS,
    compared,
    gains,
    images,
    new_images,
    node_id,
    psnr,
    with_inputs,
)
from instructbrush.tools.examples.make_examples import MEANINGS


def test_every_link_of_the_chain_workflow_changes_the_image(server, prompts, ran):
    prompt = prompts[CHAIN]
    edited = images(server, ran(CHAIN), node_id(prompt, "SaveImage"))
    before, _ = new_images(server, prompt)
    assert [image.shape for image in edited] == [image.shape for image in before]
    for kind, setting in (
        ("InstructBrushApply", "strength"),
        ("LoraLoader", "strength_model"),
        ("ControlNetApplyAdvanced", "strength"),
    ):
        without = with_inputs(prompt, node_id(prompt, kind), **{setting: 0.0})
        plain = images(server, server.run(without), node_id(prompt, "SaveImage"))
        assert np.abs(plain[0] - edited[0]).mean() > 0.002, f"{kind} changes nothing"


def test_mixed_edits_differ_from_each_other_the_input_and_single_edits(server, prompts, ran):
    prompt = prompts[MIX]
    result = ran(MIX)
    blended = compared(server, result, prompt, "a")[0]
    composed = compared(server, result, prompt, "b")[0]
    before, _ = new_images(server, prompt)
    blend = node_id(prompt, "InstructBrushBlend")
    alone = []
    for first, second in ((1.0, 0.0), (0.0, 1.0)):
        single = with_inputs(prompt, blend, weight_1=first, weight_2=second)
        alone.append(images(server, server.run(single), node_id(prompt, "SaveImage"))[0])
    for each, others in ((blended, (before[0], *alone, composed)), (composed, (before[0], *alone))):
        assert min(np.abs(each - other).mean() for other in others) > 0.002


def test_found_region_workflow_edits_only_where_the_words_are(server, prompts, ran):
    prompt = prompts[FOUND]
    edited, before, masks = edited_in_region(server, prompt, ran(FOUND))
    for after, image, mask in zip(edited, before, masks, strict=True):
        assert 0.005 < (mask > 0.5).mean() < 0.5
        assert np.abs(after - image)[mask > 0.5].mean() > 0.05
        assert np.array_equal(after[mask == 0], image[mask == 0])
    other = with_inputs(prompt, node_id(prompt, "InstructBrushFindRegion"), words="background")
    other = with_inputs(other, node_id(prompt, "InstructBrushCleanRegion"), shape="fine", max_area=1.0)
    other = with_inputs(other, node_id(prompt, "InstructBrushSoftRegion"), s=0.0)
    _, _, background = edited_in_region(server, other, server.run(other))
    assert all((a * b).mean() < 0.5 * a.mean() for a, b in zip(masks, background, strict=True))


def test_mask_model_workflow_edits_only_inside_the_mask(server, prompts, ran):
    prompt = prompts[MASK_MODEL]
    edited, before, masks = edited_in_region(server, prompt, ran(MASK_MODEL))
    differences = []
    for after, image, mask in zip(edited, before, masks, strict=True):
        assert np.array_equal(after[mask == 0], image[mask == 0])
        differences.append(np.abs(after - image)[mask > 0.5].mean())
    assert max(differences) > 0.03


def edited_in_region(server, prompt, result):
    """Returns edited images, inputs and masks [H, W] of a workflow that edits in a region."""
    edited = images(server, result, node_id(prompt, "SaveImage"))
    masks = images(server, result, node_id(prompt, "MaskPreview"))
    return edited, new_images(server, prompt)[0], [image[..., 0] for image in masks]


def test_explained_wish_workflow_shows_and_follows_the_meaning_in_each_image(server, prompts, ran):
    prompt = prompts[EXPLAINED]
    result = ran(EXPLAINED)
    meanings = result.outputs[node_id(prompt, "PreviewAny", "Words for each image")]["text"]
    assert tuple(meanings) == MEANINGS
    reasons = result.outputs[node_id(prompt, "PreviewAny", "Reason")]["text"]
    shown = result.outputs[node_id(prompt, "InstructBrushExplain")]["text"]
    assert all(reasons)
    assert shown == [f"{meaning}\n\n{reason}" for meaning, reason in zip(meanings, reasons, strict=True)]
    before, truth = new_images(server, prompt)
    assert min(gains(before, images(server, result, node_id(prompt, "SaveImage")), truth)) > 3


def test_encoded_wish_workflow_edits_better_than_the_words_alone(server, prompts, ran):
    prompt = prompts[ENCODED]
    before, truth = new_images(server, prompt)
    save = node_id(prompt, "SaveImage")
    encoded_gains = gains(before, images(server, ran(ENCODED), save), truth)
    assert min(encoded_gains) > 3
    guider = node_id(prompt, "InstructBrushEditGuider")
    inputs = {name: value for name, value in prompt[guider]["inputs"].items() if name != "conditioning"}
    words = prompt[node_id(prompt, "InstructBrushEncodeInstruction")]["inputs"]["words"]
    plain = {**prompt, guider: {**prompt[guider], "inputs": {**inputs, "words": words}}}
    plain_gains = gains(before, images(server, server.run(plain), save), truth)
    assert np.mean(encoded_gains) > np.mean(plain_gains) + 1


@pytest.mark.parametrize(("name", "values"), [(WHEN, 3), (STRENGTHS, 2)])
def test_sweep_workflows_draw_a_column_for_each_value(name, values, server, prompts, ran):
    (sheet,) = images(server, ran(name), node_id(prompts[name], "SaveImage"))
    cell = 128
    columns = [sheet[:, 6 + (cell + 6) * column :][:, :cell] for column in range(values + 1)]
    top = sheet.shape[0] - 2 * (cell + 6)
    assert sheet.shape[1] == (values + 1) * (cell + 6) + 6 and 20 < top < 100
    # Titles are dark on white, and the rest of the top is white.
    assert all(column[: top - 6].min() < 0.5 for column in columns)
    source, none, *others = (
        np.stack([column[top + (cell + 6) * row :][:cell] for row in (0, 1)]) for column in columns
    )
    full = others[-1]
    assert np.abs(full - source).mean() > max(0.05, np.abs(none - source).mean())
    for one, other in zip((none, *others), (*others, none), strict=True):
        assert np.abs(one - other).mean() > 0.01


def test_negative_strength_turns_the_edit_around(server, prompts, ran):
    prompt = prompts[SLIDER]
    save = node_id(prompt, "SaveImage")
    (turned,) = images(server, ran(SLIDER), save)
    guider = node_id(prompt, "InstructBrushEditGuider")
    (learned,) = images(server, server.run(with_inputs(prompt, guider, strength=1.0)), save)
    before = new_images(server, prompt)[0][0]
    # The learned duotone takes the colors away.
    assert colorfulness(learned) < 0.8 * colorfulness(before) < 0.8 * colorfulness(turned)


def colorfulness(image):
    return (image.max(-1) - image.min(-1)).mean()


def test_measuring_workflow_compares_with_the_true_results(prompts, ran):
    table = ran(MEASURED).outputs[node_id(prompts[MEASURED], "InstructBrushEvaluate")]["text"][0]
    assert "PSNR" in table


def test_template_for_a_public_model_offers_its_download(repository, prompts):
    workflow = json.loads((repository / "example_workflows" / f"{PUBLIC_MODEL}.json").read_text("utf-8"))
    (loader,) = [node for node in workflow["nodes"] if node["type"] == "InstructBrushLoadModel"]
    (model,) = loader["properties"]["models"]
    assert model["name"] == prompts[PUBLIC_MODEL][str(loader["id"])]["inputs"]["model_name"]
    # What ComfyUI's front end accepts: platform/missingModel/missingModelDownload.ts
    assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(f"/{model['name']}")
    assert model["name"].endswith(".safetensors") and model["directory"] == "checkpoints"


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


def test_makes_both_edits_of_a_wish_and_shows_each(server, prompts, ran):
    prompt, result = prompts[BY_STEPS], ran(BY_STEPS)
    before, edited = (compared(server, result, prompt, side) for side in "ab")
    steps = images(server, result, node_id(prompt, "PreviewImage", "After each edit"))
    _, truth = new_images(server, prompt)
    assert len(before) == len(edited) == len(truth) == 2
    assert len(steps) == 4
    for report in result.outputs[node_id(prompt, "PreviewAny")]["text"]:
        first, second, *_ = report.splitlines()
        assert first.startswith("1. make the ") and second == "2. add a brown frame"
        assert "The whole image: no object is named (decided by the grammar)." in report
    for image, after, true in zip(before, edited, truth, strict=True):
        assert psnr(after, true) > psnr(image, true) + 2
    for last, after in zip(steps[1::2], edited, strict=True):
        assert np.array_equal(last, after)


def test_edits_only_the_object_of_an_explained_wish(server, prompts, ran):
    prompt, result = prompts[NAMED], ran(NAMED)
    before, edited = (compared(server, result, prompt, side) for side in "ab")
    masks = images(server, result, node_id(prompt, "MaskPreview"))
    assert len(before) == len(edited) == len(masks) == 2
    for report in result.outputs[node_id(prompt, "PreviewAny")]["text"]:
        assert report.startswith("Edited: ") and "(decided by the grammar)." in report
    for image, after, mask in zip(before, edited, masks, strict=True):
        assert 0.01 < mask.mean() < 0.6
        assert np.array_equal(after[mask == 0], image[mask == 0])
        assert np.abs(after - image)[mask > 0.5].mean() > 0.05
