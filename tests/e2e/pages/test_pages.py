"""The example workflows that open as pages (App Mode): a few inputs, one button, large results."""

import json

import numpy as np
import pytest

from instructbrush.tests.e2e.workflows import images, node_id, with_inputs

RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
FEWER_STEPS = """(steps) => {
    const edit = app.graph.nodes.find((node) => node.title === "Edit Image by Instruction");
    edit.widgets.find((widget) => widget.label === "Sampling steps" || widget.name === "steps").value = steps;
}"""
RESULTS = """() => [...document.querySelectorAll("img[src*='edited_']")]
    .filter((image) => image.naturalWidth > 0).map((image) => image.src)"""
LABELS = {
    "Page - Learn an edit.app": [
        "Pairs that show the edit",
        "Words that are close to it",
        "Name of the instruction",
    ],
    "Page - Edit my image.app": ["Your image", "Instruction", "Strength"],
    "Page - Edit only there.app": ["Your image", "Where: what to edit in it", "Instruction", "Strength"],
}


def open_workflow(page, repository, name):
    path = repository / "example_workflows" / f"{name}.json"
    page.evaluate("(workflow) => app.loadGraphData(workflow)", json.loads(path.read_text(encoding="utf-8")))
    for label in LABELS[name]:
        page.get_by_text(label, exact=True).locator("visible=true").first.wait_for(timeout=30_000)


@RENDERERS
def test_open_as_pages_with_their_inputs_and_run_with_the_button(vue, open_page, repository, shots):
    page = open_page(vue=vue)
    renderer = "vue" if vue else "classic"
    # The last one is run.
    for name in sorted(LABELS, key="Page - Edit my image.app".__eq__):
        open_workflow(page, repository, name)
        page.screenshot(path=shots / f"{name}_{renderer}.png")
    page.evaluate(FEWER_STEPS, 6 + vue)  # other numbers: ComfyUI keeps the results of a run
    known = page.evaluate(RESULTS)
    page.get_by_test_id("linear-run-button").or_(
        page.get_by_role("button", name="Run", exact=True)
    ).last.click()
    new = f"(known) => ({RESULTS})().some((address) => !known.includes(address))"
    page.wait_for_function(new, arg=known, timeout=120_000)
    page.screenshot(path=shots / f"page_result_{renderer}.png")


def test_the_page_for_one_region_leaves_the_rest(server, prompts):
    prompt = prompts["Page - Edit only there.app"]
    steps = node_id(prompt, "BasicScheduler")
    prompt = with_inputs(prompt, steps, steps=6)
    result = server.run(prompt)
    (edited,) = images(server, result, node_id(prompt, "SaveImage"))
    whole = with_inputs(prompt, node_id(prompt, "InstructBrushFindRegion"), words="sky")
    (other,) = images(server, server.run(whole), node_id(prompt, "SaveImage"))
    assert edited.shape == other.shape and np.abs(edited - other).mean() > 0.01
