"""Helpers for tests that run the example workflows."""

import numpy as np

from instructbrush.tools.get_comfyui import REPOSITORY
from instructbrush.tools.prompts import read_image

WORKFLOWS = tuple(sorted(path.stem for path in (REPOSITORY / "example_workflows").glob("*.json")))
PAGES = tuple(name for name in WORKFLOWS if name.endswith(".app"))
LEARN = "01 Learn an edit from pairs"
PUBLIC_MODEL = "02 Learn from your own photos (SD 1.5 InstructPix2Pix)"
RETOUCH = "03 Retouch photos like an expert"
PHRASES = "04 Find words to start learning from"
TEXT_SPACE = "05 Learn as text and add words (Visii)"
ADAPTER = "06 Learn what another workflow does"
SAVED = "07 Edit images with a saved instruction"
SLIDER = "08 Turn an edit up, down and around"
STRENGTHS = "09 Compare strengths on one sheet"
WHEN = "10 See when an edit acts"
COMPARED = "11 Compare two instructions"
MIX = "12 Mix two instructions"
CHAIN = "13 Combine with ControlNet and LoRA"
FOUND = "14 Edit only what words find"
TWO_REGIONS = "15 Edit several regions at once"
MASK_MODEL = "16 Edit with a model that reads the mask"
EXPLAINED = "17 Explain a wish, then edit"
BY_STEPS = "18 Explain a wish, then edit step by step"
NAMED = "19 Explain a wish, then edit what it names"
ENCODED = "20 Let a model read words and image together"
MEASURED = "21 Measure an edit against the truth"
JUDGED = "22 Judge two edits without names"
ONLY_THERE = "Page - Edit only there.app"

# What a run of a template takes less of. The others run as they are: their tests look at quality.
_LEARNING = {PHRASES: 12, TEXT_SPACE: 40, RETOUCH: 60, ADAPTER: 30, "Page - Learn an edit.app": 4}
_SAMPLING = {
    **dict.fromkeys((SAVED, COMPARED, JUDGED), 4),
    WHEN: 6,
    STRENGTHS: 4,
    TWO_REGIONS: 6,
    BY_STEPS: 6,
    NAMED: 6,
    PHRASES: 4,
    "Page - Learn an edit.app": 4,
}
_FEWER_VALUES = {WHEN: "1000, 500, 0", STRENGTHS: "0, 1"}


def shortened(name, prompt):
    """Returns a template's prompt with fewer steps and values where quality is not tested."""
    made = prompt
    for key, node in prompt.items():
        kind = node["class_type"]
        if kind.startswith("InstructBrushLearn") and name in _LEARNING:
            given = {"preset": "custom", "steps": _LEARNING[name], "guidance": "default", "preview_every": 0}
            known = {setting: value for setting, value in given.items() if setting in node["inputs"]}
            made = with_inputs(made, key, **known)
        if kind == "BasicScheduler" and name in _SAMPLING:
            made = with_inputs(made, key, steps=_SAMPLING[name])
        if kind == "InstructBrushSweepValues":
            made = with_inputs(made, key, values=_FEWER_VALUES[name])
    return made


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


def compared(server, result, prompt, side):
    """Images of one side, "a" or "b", of Compare Images."""
    shown = result.outputs[node_id(prompt, "ImageCompare")][f"{side}_images"]
    return [read_image(server.view(image)).astype(np.float32) / 255 for image in shown]


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
    """Returns the images before and after of the pairs that a workflow edits."""
    kinds = ("InstructBrushLoadPairs", "InstructBrushLoadModel")  # the model gives the size
    nodes = {key: node for key, node in prompt.items() if node["class_type"] in kinds}
    load = [key for key, node in nodes.items() if node["class_type"] == kinds[0]][-1]
    for number in (1, 2):
        inputs = {"images": [load, number]}
        nodes[f"side {number}"] = {"class_type": "PreviewImage", "inputs": inputs}
    result = server.run(nodes)
    return images(server, result, "side 1"), images(server, result, "side 2")
