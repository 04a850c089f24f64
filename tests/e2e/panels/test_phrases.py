"""The chips of Unique Phrases in both renderers: bars, a choice by click and key, and the next run."""

import json

import pytest

RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
BUILD = """(folder) => {
    app.graph.clear();
    const add = (type, x, values) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, 60];
        app.graph.add(node);
        for (const [key, value] of Object.entries(values)) {
            node.widgets.find((widget) => widget.name === key).value = value;
        }
        return node;
    };
    const pairs = add("InstructBrushLoadPairs", 0, { folder });
    const clip = add("InstructBrushLoadOpenClip", 0, {});
    clip.pos = [0, 560];
    const phrases = add("InstructBrushUniquePhrases", 460, {});
    const text = add("PreviewAny", 940, {});
    pairs.connect(0, phrases, 0);
    clip.connect(0, phrases, 1);
    phrases.connect(0, text, 0);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60, 20];
    app.canvas.setDirty(true, true);
    return phrases.id;
}"""


def words(page):
    return page.locator(".ib-phrases-words").text_content()


def run(page):
    """Runs the graph, and returns the text that the last node shows."""
    page.evaluate(
        """() => new Promise((resolve) => {
            window.app.api.addEventListener("execution_success", resolve, { once: true });
            app.queuePrompt(0);
        })"""
    )
    page.wait_for_timeout(300)
    return page.evaluate(
        """() => app.graph.nodes.find((node) => node.type === 'PreviewAny')
            .widgets.map((widget) => widget.value).find((value) => typeof value === 'string')"""
    )


def chip(page, text):
    return page.locator(".ib-phrases-chip", has=page.get_by_text(text, exact=True))


@RENDERERS
def test_phrases_are_taken_by_click_and_used_by_the_next_run(vue, server, open_page, shots):
    kind = "vue" if vue else "classic"
    page = open_page(vue=vue)
    folders = server.get("/object_info/InstructBrushLoadPairs")["InstructBrushLoadPairs"]["input"]
    (folder,) = [
        name
        for name in folders["required"]["folder"][1]["options"]
        if "light_from_the_right" in name and "new" not in name
    ]
    node = page.evaluate(BUILD, folder)
    assert page.locator(".ib-phrases-says").text_content() == "Run the graph to find phrases."
    assert run(page) == "turn bright light into dark corners"
    assert words(page) == "turn bright light into dark corners"
    # The pairs stand on their board, and not once more below it.
    assert not page.evaluate("() => app.graph.nodes[0].widgets.some(({ name }) => name.includes('preview'))")
    page.screenshot(path=shots / f"phrases_{kind}.png")
    assert page.locator(".ib-phrases-chip[aria-pressed=true]").count() == 2
    assert "weak" in chip(page, "bright light").inner_text()
    assert "weak" not in chip(page, "dark corners").inner_text()
    # A phrase of the images after fits them better: its second bar is longer.
    bars = [bar.bounding_box()["width"] for bar in chip(page, "dark corners").locator("i").all()]
    assert bars[1] > 1.5 * bars[0]

    chip(page, "bright light").click()
    chip(page, "a photo").focus()
    page.keyboard.press("Enter")
    assert words(page) == "turn it into a photo and dark corners"
    assert "Run to use it." in page.locator(".ib-phrases-says").text_content()
    page.screenshot(path=shots / f"phrases_chosen_{kind}.png")
    chosen = page.evaluate(
        "(id) => app.graph.getNodeById(id).widgets.find((each) => each.name === 'chosen').value", node
    )
    assert json.loads(chosen) == {"before": [], "after": ["a photo", "dark corners"]}
    assert run(page) == "turn it into a photo and dark corners"
    assert page.locator(".ib-phrases-says").text_content() == "Your choice."

    page.get_by_role("button", name="Choose automatically").click()
    assert words(page) == "Run to choose again"
    assert run(page) == "turn bright light into dark corners"

    # A choice of other images says that it is gone.
    page.evaluate(
        """(id) => {
            const chosen = app.graph.getNodeById(id).widgets.find((each) => each.name === "chosen");
            chosen.value = '{"before": [], "after": ["an igloo"]}';
        }""",
        node,
    )
    assert run(page) == "turn bright light into dark corners"
    page.screenshot(path=shots / f"phrases_gone_{kind}.png")
    assert "No longer among the phrases: an igloo." in page.locator(".ib-phrases-says").text_content()
