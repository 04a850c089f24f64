"""Each example workflow in both renderers, as the template browser opens it, before and after a run."""

import json
from urllib.parse import quote

import pytest

from instructbrush.tests.e2e.workflows import PAGES, PUBLIC_MODEL, WORKFLOWS

RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
GRAPHS = [name for name in WORKFLOWS if name not in PAGES]
# The window of the tests has 1600 x 1000 pixels; no side bar is open.
ZOOM = 0.8
MOST_NODES = 10

OPEN = """async ([name, address]) => {
    const workflow = await (await fetch(address)).json();
    await app.loadGraphData(workflow, true, true, name, { openSource: "template" });
}"""
SCALE = "() => app.canvas.ds.scale"

# Nodes take their size after they are drawn, panels and images after that.
SETTLE = """async () => {
    const sizes = () => {
        const drawn = [...document.querySelectorAll("[data-node-id].lg-node")];
        const boxes = drawn.map((each) => each.getBoundingClientRect());
        return JSON.stringify([app.graph.nodes.map(({ size }) => [...size]), boxes]);
    };
    const end = performance.now() + 10_000;
    let [last, same] = ["", 0];
    while (same < 5 && performance.now() < end) {
        await new Promise((done) => setTimeout(done, 40));
        const now = sizes();
        // Images outside of the window are loaded later.
        const seen = (image) => image.checkVisibility() && image.getBoundingClientRect().top < innerHeight;
        const loaded = [...document.images].every((image) => image.complete || !seen(image));
        same = loaded && now === last ? same + 1 : 0;
        last = now;
    }
}"""

# What the server sends at the end of a run.
SHOW_RESULTS = """async (outputs) => {
    const { api } = await import("/scripts/api.js");
    for (const [node, output] of Object.entries(outputs))
        api.dispatchCustomEvent("executed", { node, display_node: node, output, prompt_id: "shown" });
}"""

OVERLAPPING = """() => {
    const TITLE = 30;
    const across = (a, b) => a.left < b.right - 1 && a.top < b.bottom - 1;
    const boxes = app.graph.nodes.map((node) => {
        const { collapsed } = node.flags;
        const wide = collapsed ? (node._collapsed_width ?? 200) : node.size[0];
        const [left, top] = [node.pos[0], node.pos[1] - TITLE];
        const tall = TITLE + (collapsed ? 0 : node.size[1]);
        return { title: node.title, left, top, right: left + wide, bottom: top + tall };
    });
    const drawn = [...document.querySelectorAll("[data-node-id].lg-node")].map((each) => {
        const { left, top, right, bottom } = each.getBoundingClientRect();
        return { title: `drawn ${each.dataset.nodeId}`, left, top, right, bottom };
    });
    const pairs = [];
    for (const all of [boxes, drawn])
        all.forEach((a, index) => {
            for (const b of all.slice(0, index))
                if (across(a, b) && across(b, a)) pairs.push(`${a.title} / ${b.title}`);
        });
    return pairs;
}"""


def counted(workflow):
    """The nodes that a user sees, without notes and nodes that are folded."""
    return [
        node
        for node in workflow["nodes"]
        if node["type"] != "MarkdownNote" and not node.get("flags", {}).get("collapsed")
    ]


@RENDERERS
def test_opens_large_and_no_node_covers_another_before_and_after_a_run(vue, open_page, ran, shots):
    results = {name: ran(name).outputs for name in GRAPHS if name != PUBLIC_MODEL}
    page = open_page(vue=vue)
    messages = []
    page.on("console", lambda message: message.type == "error" and messages.append(message.text))
    wrong = {}
    for name in GRAPHS:
        address = f"/api/workflow_templates/instructbrush/{quote(name)}.json"
        page.evaluate(OPEN, [name, address])
        page.evaluate(SETTLE)
        zoom, before = page.evaluate(SCALE), page.evaluate(OVERLAPPING)
        page.evaluate(SHOW_RESULTS, results.get(name, {}))
        page.evaluate(SETTLE)
        page.screenshot(path=shots / f"template_{name[:2]}_{'vue' if vue else 'classic'}.png")
        after = page.evaluate(OVERLAPPING)
        if zoom < ZOOM or before or after:
            wrong[name] = round(zoom, 3), before, after
    assert wrong == {}
    # The pack's own files must not fail. ComfyUI asks for user files that may be missing (404), and tells
    # of models whose download it offers.
    assert [text for text in messages if "instructbrush" in text.lower() and "404" not in text] == []


@pytest.mark.parametrize("name", GRAPHS)
def test_is_read_from_left_to_right(name, repository):
    workflow = json.loads((repository / "example_workflows" / f"{name}.json").read_text("utf-8"))
    assert 4 <= len(counted(workflow)) <= MOST_NODES
    places = {node["id"]: node["pos"][0] for node in workflow["nodes"]}
    assert all(places[start] <= places[end] for _, start, _, end, *_ in workflow["links"])
    (note,) = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert note["pos"] == [0, 0] and "`" not in note["widgets_values"][0]
    titles = list(dict.fromkeys(group["title"] for group in workflow["groups"]))
    assert [int(title.split()[0]) for title in titles] == list(range(1, len(titles) + 1))
    assert titles[0] == "1 Show"
    # A group is one frame.
    assert len(titles) == len(workflow["groups"])


def test_browser_lists_the_templates_in_their_order(open_page):
    page = open_page()
    listed = page.evaluate("async () => (await app.api.getWorkflowTemplates()).instructbrush")
    assert listed == sorted(WORKFLOWS)
    assert listed[0] == "01 Learn an edit from pairs"
