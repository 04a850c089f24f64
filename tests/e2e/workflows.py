"""Helpers for tests that run the example workflows."""

import numpy as np

from instructbrush.tools.prompts import read_image

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
    "explain_a_wish_then_edit_by_steps",
    "find_the_edited_object_then_edit",
    "sweep_when_the_instruction_acts",
    "retouch_photographs_like_an_expert",
    "page_learn_an_edit",
    "page_edit_my_image",
    "page_edit_only_there",
)


def node_id(prompt, kind, title=None):
    """Returns the id of the only node of a kind (and title) in a prompt."""
    (found,) = [
        key
        for key, node in prompt.items()
        if node["class_type"] == kind and title in (None, node["_meta"]["title"])
    ]
    return found


def images(server, result, node):
    """Images that a node saved or previewed, each [H, W, 3] in 0..1."""
    found = [read_image(server.view(image)).astype(np.float32) / 255 for image in result.images(node)]
    assert found, f"node {node} shows no image"
    return found


def psnr(a, b):
    """Peak signal-to-noise ratio of images in 0..1 in dB."""
    return -10 * np.log10(np.mean((a - b) ** 2))


def gains(before, edited, truth):
    """How much nearer to the truth each edit is than its input, in dB."""
    return [
        psnr(after, true) - psnr(image, true)
        for image, after, true in zip(before, edited, truth, strict=True)
    ]


def with_inputs(prompt, node, **inputs):
    """Returns the prompt with other inputs of a node."""
    return {**prompt, node: {**prompt[node], "inputs": {**prompt[node]["inputs"], **inputs}}}


def new_images(server, prompt):
    """Returns the unedited new images of a workflow."""
    (load,) = [
        node
        for node in prompt.values()
        if node["class_type"] == "InstructBrushLoadPairs" and "new" in node["inputs"]["folder"]
    ]
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 1]}}
    return images(server, server.run({"1": load, "2": preview}), "2")
