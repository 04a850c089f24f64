"""The example workflows, over HTTP, as a user finds them: the browser opens the file and converts it, the server runs it."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from instructbrush.tools.browser import READY
from instructbrush.tools.examples.make_examples import MEANINGS

WORKFLOWS = (
    "learn_from_pairs",
    "apply_with_controlnet_and_lora",
    "find_words_learn_and_measure",
    "learn_in_clip_space_and_add_words",
    "mix_two_instructions",
    "edit_only_what_words_find",
    "edit_by_words_with_a_mask_model",
    "explain_a_wish_then_edit",
    "encode_a_wish_with_the_picture",
)


def node_id(prompt, kind, title=None):
    """The one node of a kind (and title) in a prompt."""
    (found,) = [
        key
        for key, node in prompt.items()
        if node["class_type"] == kind and title in (None, node["_meta"]["title"])
    ]
    return found


def images(server, result, node):
    """What a node saved or previewed, each [H, W, 3] in 0..1."""
    return [
        np.asarray(Image.open(io.BytesIO(server.view(image))).convert("RGB"), np.float32) / 255
        for image in result.images(node)
    ]


def psnr(a, b):
    """Peak signal to noise ratio in dB of images in 0..1."""
    return -10 * np.log10(np.mean((a - b) ** 2))


@pytest.fixture(scope="module")
def prompts(browser, server, repository):
    """The browser's own conversion of both files."""
    from instructbrush.tools.browser import open_front_end

    page = open_front_end(browser, server)
    found = {}
    for name in WORKFLOWS:
        workflow = json.loads((repository / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
        page.wait_for_function(READY)
        found[name] = page.evaluate(
            "async (w) => { await app.loadGraphData(w); return (await app.graphToPrompt()).output }", workflow
        )
    page.close()
    return found


@pytest.mark.slow
def test_learning_workflow(server, prompts):
    prompt = prompts["learn_from_pairs"]
    heard = []
    result = server.run(prompt, on_message=lambda message: heard.append(message["type"]))
    edited = images(server, result, node_id(prompt, "SaveImage"))
    truth = images(server, result, node_id(prompt, "PreviewImage"))
    before = images(server, server.run({"1": load_new(prompt), "2": preview(["1", 1])}), "2")
    assert len(edited) == len(truth) == len(before) == 2
    assert (
        np.mean([psnr(a, b) for a, b in zip(edited, truth, strict=True)])
        > np.mean([psnr(a, b) for a, b in zip(before, truth, strict=True)]) + 5
    )
    # The panel was told all along, and the whole curve comes with the result.
    learn = node_id(prompt, "InstructBrushLearn")
    steps = prompt[learn]["inputs"]["steps"]
    messages = [message for message in result.data("instructbrush.learn") if message["node"] == learn]
    assert messages[-1]["step"] == messages[-1]["total"] == steps
    assert [loss for message in messages for loss in message["losses"]] == pytest.approx(
        result.outputs[learn]["learning"][0]["losses"], abs=1e-5
    )
    assert any(message.get("preview", "").startswith("data:image/jpeg") for message in messages)
    # What was saved is listed at once.
    names = server.get("/object_info/InstructBrushLoad")["InstructBrushLoad"]["input"]["required"]["name"]
    assert any("light_from_the_right.safetensors" in str(part) for part in names)


def test_chain_workflow(server, prompts):
    prompt = prompts["apply_with_controlnet_and_lora"]
    result = server.run(prompt)
    edited, before = (images(server, result, node_id(prompt, kind)) for kind in ("SaveImage", "PreviewImage"))
    assert [image.shape for image in edited] == [image.shape for image in before]
    # Every link of the chain counts: without it the image is another.
    for kind, setting in (
        ("InstructBrushApply", "strength"),
        ("LoraLoader", "strength_model"),
        ("ControlNetApplyAdvanced", "strength"),
    ):
        node = node_id(prompt, kind)
        without = {**prompt, node: {**prompt[node], "inputs": {**prompt[node]["inputs"], setting: 0.0}}}
        plain = images(server, server.run(without), node_id(prompt, "SaveImage"))
        assert np.abs(plain[0] - edited[0]).mean() > 0.002, f"{kind} changes nothing"


@pytest.mark.slow
def test_words_learning_and_measuring_workflow(server, prompts):
    """The phrases begin the learning, the inspection and the figures show in their nodes, and the edit is nearer to the truth than the input."""
    prompt = prompts["find_words_learn_and_measure"]
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
    edited, truth = (images(server, result, node_id(prompt, kind)) for kind in ("SaveImage", "PreviewImage"))
    before = images(server, server.run({"1": load_new(prompt), "2": preview(["1", 1])}), "2")
    assert (
        np.mean([psnr(a, b) for a, b in zip(edited, truth, strict=True)])
        > np.mean([psnr(a, b) for a, b in zip(before, truth, strict=True)]) + 4
    )


@pytest.mark.slow
def test_clip_space_workflow(server, prompts):
    """Learned text states, the user's words after them, and the noise of learning: each link changes the image, and a second run does not."""
    prompt = prompts["learn_in_clip_space_and_add_words"]
    edited = images(server, server.run(prompt), node_id(prompt, "SaveImage"))
    words = node_id(prompt, "InstructBrushAddWords")
    without = {**prompt, words: {**prompt[words], "inputs": {**prompt[words]["inputs"], "words": ""}}}
    plain = images(server, server.run(without), node_id(prompt, "SaveImage"))
    assert np.abs(plain[0] - edited[0]).mean() > 0.002
    again = images(server, server.run(prompt), node_id(prompt, "SaveImage"))
    assert all(np.array_equal(a, b) for a, b in zip(edited, again, strict=True))


def test_mixing_workflow(server, prompts):
    """Blended and composed edits differ from each other, from the input, and from either instruction alone."""
    prompt = prompts["mix_two_instructions"]
    result = server.run(prompt)
    blended, composed = (
        images(server, result, node_id(prompt, "SaveImage", title))[0] for title in ("Blended", "Composed")
    )
    before = images(server, result, node_id(prompt, "PreviewImage"))[0]
    blend = node_id(prompt, "InstructBrushBlend")
    alone = []
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        changed = dict(zip(("weight_1", "weight_2"), weights, strict=True))
        single = {**prompt, blend: {**prompt[blend], "inputs": {**prompt[blend]["inputs"], **changed}}}
        alone.append(images(server, server.run(single), node_id(prompt, "SaveImage", "Blended"))[0])
    for each, others in ((blended, (before, *alone, composed)), (composed, (before, *alone))):
        assert min(np.abs(each - other).mean() for other in others) > 0.002


def test_found_region_workflow(server, prompts):
    """What the words find is edited as learned; every other pixel is the image's own. Other words, another place."""
    prompt = prompts["edit_only_what_words_find"]
    edited, before, where = in_regions(server, prompt)
    changed = [np.abs(a - b)[mask > 0.5].mean() for a, b, mask in zip(edited, before, where, strict=True)]
    assert min(changed) > 0.05
    for a, b, mask in zip(edited, before, where, strict=True):
        assert 0.005 < (mask > 0.5).mean() < 0.5 and np.array_equal(a[mask == 0], b[mask == 0])
    other = dict(prompt)
    for kind, changes in (
        ("Find", {"words": "background"}),
        ("Clean", {"shape": "fine", "max_area": 1.0}),
        ("Soft", {"s": 0.0}),
    ):
        node = node_id(prompt, f"InstructBrush{kind}Region")
        other[node] = {**prompt[node], "inputs": {**prompt[node]["inputs"], **changes}}
    elsewhere = in_regions(server, other)[2]
    assert all((a * b).mean() < 0.5 * a.mean() for a, b in zip(where, elsewhere, strict=True))


def test_mask_model_workflow(server, prompts):
    """The model that reads the mask follows the words inside it."""
    prompt = prompts["edit_by_words_with_a_mask_model"]
    edited, before, where = in_regions(server, prompt)
    for a, b, mask in zip(edited, before, where, strict=True):
        assert np.array_equal(a[mask == 0], b[mask == 0])
    assert (
        max(np.abs(a - b)[mask > 0.5].mean() for a, b, mask in zip(edited, before, where, strict=True)) > 0.03
    )
    moved = node_id(prompt, "MaskComposite")
    other = {**prompt, moved: {**prompt[moved], "inputs": {**prompt[moved]["inputs"], "x": 50}}}
    assert np.abs(in_regions(server, other)[0][0] - edited[0]).mean() > 0.005


def in_regions(server, prompt):
    """Edited images, those before, and masks [H, W] of a workflow that edits in a region."""
    result = server.run(prompt)
    where = node_id(prompt, "PreviewImage", "Where")
    edited = images(server, result, node_id(prompt, "SaveImage"))
    before = images(server, result, node_id(prompt, "PreviewImage", "Before"))
    return edited, before, [image[..., 0] for image in images(server, result, where)]


def three_rows(server, result, prompt):
    """Before, edited, and as the wish means it, of the workflows with one wish and two images."""
    before = images(server, result, node_id(prompt, "PreviewImage", "Before"))
    truth = images(server, result, node_id(prompt, "PreviewImage", "As it is wished for"))
    edited = images(server, result, node_id(prompt, "SaveImage"))
    assert len(before) == len(edited) == len(truth) == 2
    return before, edited, truth


def gains(before, edited, truth):
    """How much nearer to the truth than the input each edit is, in dB."""
    return [
        psnr(made, wanted) - psnr(given, wanted)
        for given, made, wanted in zip(before, edited, truth, strict=True)
    ]


def test_explained_wish_workflow(server, prompts):
    """The wish means something else in each image, the node shows what, and the edits follow it."""
    prompt = prompts["explain_a_wish_then_edit"]
    result = server.run(prompt)
    said = result.outputs[node_id(prompt, "PreviewAny", "What it means here")]["text"]
    assert tuple(said) == MEANINGS
    why = result.outputs[node_id(prompt, "PreviewAny", "Why")]["text"]
    shown = result.outputs[node_id(prompt, "InstructBrushExplain")]["text"]
    assert all(why) and shown == [
        f"{instruction}\n\n{reason}" for instruction, reason in zip(said, why, strict=True)
    ]
    assert min(gains(*three_rows(server, result, prompt))) > 3


def test_encoded_wish_workflow(server, prompts):
    """One wish, two images, two edits, each as the image wants it; the tuned editor alone does not know what the words mean."""
    prompt = prompts["encode_a_wish_with_the_picture"]
    before, edited, truth = three_rows(server, server.run(prompt), prompt)
    assert min(gains(before, edited, truth)) > 3
    guider = node_id(prompt, "InstructBrushEditGuider")
    inputs = {name: value for name, value in prompt[guider]["inputs"].items() if name != "conditioning"}
    words = prompt[node_id(prompt, "InstructBrushEncodeInstruction")]["inputs"]["words"]
    plain = {**prompt, guider: {**prompt[guider], "inputs": {**inputs, "words": words}}}
    unread = three_rows(server, server.run(plain), plain)
    assert np.mean(gains(before, edited, truth)) > np.mean(gains(*unread)) + 1


@pytest.mark.parametrize("name", WORKFLOWS)
def test_command_line_converter_agrees_with_the_browser(name, server, prompts, repository):
    convert = pytest.importorskip("comfy_cli.workflow_to_api").convert_ui_to_api
    workflow = json.loads((repository / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    converted = convert(workflow, server.object_info())
    assert {key: (node["class_type"], node["inputs"]) for key, node in converted.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in prompts[name].items()
    }


@pytest.mark.parametrize("name", WORKFLOWS)
def test_templates_are_listed_with_their_images(name, server, repository):
    assert name in server.get("/workflow_templates")["instructbrush"]
    with Image.open(repository / "example_workflows" / f"{name}.jpg") as image:
        assert min(image.size) >= 256


def load_new(prompt):
    """The node that loads the new images."""
    (found,) = [
        node
        for node in prompt.values()
        if node["class_type"] == "InstructBrushLoadPairs" and "new" in node["inputs"]["folder"]
    ]
    return found


def preview(link):
    """A preview of a link."""
    return {"class_type": "PreviewImage", "inputs": {"images": link}, "_meta": {"title": "Preview"}}
