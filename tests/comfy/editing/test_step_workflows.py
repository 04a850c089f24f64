"""The example workflows for several edits and for the edited object, run in a real ComfyUI."""

import torch

from instructbrush.tests.comfy.workflow_graphs import prompt_of, shown_images
from instructbrush.tools.examples.workflows.reasoning import edited_object, several_edits

# The workflows have 20.
STEPS = 6


def psnr(a, b):
    return -10 * torch.log10((a - b).square().mean()).item()


def test_workflow_makes_both_edits_of_a_wish_and_shows_each(comfy):
    prompt, ids = prompt_of(comfy, several_edits())
    prompt[ids["sigmas"]]["inputs"]["steps"] = STEPS
    run = comfy.run(prompt)
    before, edited, steps, truth = (
        shown_images(comfy, run, ids[name]) for name in ("picture", "result", "each", "truth")
    )
    assert len(before) == len(edited) == len(truth) == 2
    assert len(steps) == 4
    for report in run.outputs[ids["report"]]["text"]:
        first, second, *_ = report.splitlines()
        assert first.startswith("1. make the ") and second == "2. add a brown frame"
        assert "The whole image: no object is named (decided by the grammar)." in report
    for image, after, true in zip(before, edited, truth, strict=True):
        assert psnr(after, true) > psnr(image, true) + 2
    for last, result in zip(steps[1::2], edited, strict=True):
        assert torch.equal(last, result)


def test_workflow_edits_only_the_object_of_an_explained_wish(comfy):
    prompt, ids = prompt_of(comfy, edited_object())
    prompt[ids["steps"]]["inputs"]["steps"] = STEPS
    run = comfy.run(prompt)
    before, edited, masks = (shown_images(comfy, run, ids[name]) for name in ("picture", "result", "found"))
    assert len(before) == len(edited) == len(masks) == 2
    for report in run.outputs[ids["what"]]["text"]:
        assert report.startswith("Edited: ") and "(decided by the grammar)." in report
    for image, after, mask in zip(before, edited, masks, strict=True):
        assert 0.01 < mask.mean() < 0.6
        assert torch.equal(after[mask == 0], image[mask == 0])
        assert (after - image)[mask > 0.5].abs().mean() > 0.05
