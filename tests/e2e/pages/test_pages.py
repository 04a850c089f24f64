"""The example workflows that open as pages (App Mode): a few inputs, one button, large results."""

import json

import numpy as np
import pytest

from instructbrush.tests.e2e.workflows import images, node_id, with_inputs

LABELS = {
    "Page - Learn an edit.app": [
        "Pairs that show the edit",
        "Words that are close to it",
        "Name of the instruction",
    ],
    "Page - Edit my image.app": ["Your image", "Instruction", "Strength"],
    "Page - Edit only there.app": ["Your image", "Where: what to edit in it", "Instruction", "Strength"],
}


@pytest.mark.parametrize(
    ("name", "vue"), [*((name, False) for name in LABELS), ("Page - Learn an edit.app", True)]
)
def test_opens_as_a_page_with_its_inputs(name, vue, open_page, repository, shots):
    page = open_page(vue=vue)
    workflow = json.loads((repository / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
    for label in LABELS[name]:
        page.get_by_text(label, exact=True).locator("visible=true").first.wait_for(timeout=30_000)
    page.screenshot(path=shots / f"{name}_{'vue' if vue else 'classic'}.png")


def test_a_page_runs_with_its_button_and_shows_the_result(open_page, repository, shots):
    page = open_page()
    path = repository / "example_workflows" / "Page - Edit my image.app.json"
    page.evaluate("(workflow) => app.loadGraphData(workflow)", json.loads(path.read_text(encoding="utf-8")))
    page.get_by_text("Your image", exact=True).wait_for(timeout=30_000)
    page.get_by_test_id("linear-run-button").or_(
        page.get_by_role("button", name="Run", exact=True)
    ).last.click()
    page.locator("img[src*='edited_']").first.wait_for(timeout=120_000)
    page.screenshot(path=shots / "page_result.png")


def test_the_page_for_one_region_leaves_the_rest(server, prompts):
    prompt = prompts["Page - Edit only there.app"]
    steps = node_id(prompt, "BasicScheduler")
    prompt = with_inputs(prompt, steps, steps=6)
    result = server.run(prompt)
    (edited,) = images(server, result, node_id(prompt, "SaveImage"))
    whole = with_inputs(prompt, node_id(prompt, "InstructBrushFindRegion"), words="sky")
    (other,) = images(server, server.run(whole), node_id(prompt, "SaveImage"))
    assert edited.shape == other.shape and np.abs(edited - other).mean() > 0.01
