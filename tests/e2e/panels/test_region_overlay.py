"""The boxes of Find Region in both renderers: a live threshold, clicks and keys, and the next run."""

import json
import shutil

import pytest

RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
BUILD = """({ file, words }) => {
    app.graph.clear();
    const add = (type, x, y, values) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        for (const [key, value] of Object.entries(values)) {
            const widget = node.widgets.find((widget) => widget.name === key);
            widget.value = value;
            widget.callback?.(value, app.canvas, node);
        }
        return node;
    };
    const image = add("LoadImage", 0, 60, { image: file });
    const finder = add("InstructBrushLoadRegionFinder", 0, 520, {});
    const find = add("InstructBrushFindRegion", 380, 60, { words });
    const mask = add("MaskPreview", 900, 60, {});
    image.connect(0, find, 0);
    finder.connect(0, find, 1);
    find.connect(0, mask, 0);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60, 20];
    app.canvas.setDirty(true, true);
    return find.id;
}"""
WORDS = "square, triangle"
BOX = ".ib-region-box"


def run(page):
    page.evaluate(
        """() => new Promise((resolve) => {
            window.app.api.addEventListener("execution_success", resolve, { once: true });
            app.queuePrompt(0);
        })"""
    )
    page.wait_for_timeout(300)


def widget(page, node, name):
    return page.evaluate(
        "([id, name]) => app.graph.getNodeById(id).widgets.find((each) => each.name === name).value",
        [node, name],
    )


def kept(page):
    return page.locator(f"{BOX}[aria-pressed=true]").count()


@RENDERERS
def test_boxes_follow_the_threshold_and_clicks(vue, server, open_page, shots, repository):
    kind = "vue" if vue else "classic"
    file = f"region_overlay_{kind}.png"
    pairs = repository / "example_workflows" / "pairs" / "light_from_the_right"
    shutil.copy(pairs / "3_0.png", server.base / "input" / file)
    page = open_page(vue=vue)
    node = page.evaluate(BUILD, {"file": file, "words": f"{WORDS}, unicorn"})
    assert page.locator(".ib-region-words").text_content() == "Run the graph to find regions."
    run(page)
    page.wait_for_selector(BOX)
    all_boxes = page.locator(BOX).count()
    assert all_boxes >= 2 and kept(page) == all_boxes
    assert "does not know unicorn" in page.locator(".ib-region-says").text_content()
    # Labels do not cover each other.
    labels = [each.bounding_box() for each in page.locator(f"{BOX}:not(.ib-label-hidden) span").all()]
    assert labels
    for number, one in enumerate(labels):
        for other in labels[number + 1 :]:
            apart = abs(one["y"] - other["y"]) >= one["height"] - 1
            beside = one["x"] + one["width"] <= other["x"] + 1 or other["x"] + other["width"] <= one["x"] + 1
            assert apart or beside
    # The boxes lie on the image.
    image = page.locator(".ib-region-frame img").bounding_box()
    assert image["width"] > 150 and abs(image["width"] - image["height"]) < 2
    for box in (each.bounding_box() for each in page.locator(BOX).all()):
        assert image["x"] - 3 <= box["x"] and box["x"] + box["width"] <= image["x"] + image["width"] + 3
    page.screenshot(path=shots / f"region_{kind}.png")

    # The slider acts at once, without a run.
    scores = sorted(float(each.split()[-1]) for each in page.locator(f"{BOX} span").all_text_contents())
    slider = page.get_by_label("Least score of a box")
    slider.fill(str(scores[0] + 0.01))
    assert 0 < kept(page) < all_boxes
    assert "Run to use this choice." in page.locator(".ib-region-says").text_content()
    assert widget(page, node, "box_threshold") == pytest.approx(scores[0] + 0.01, abs=0.006)
    slider.fill("0.3")
    assert "Run to look for boxes below 0.50." in page.locator(".ib-region-says").text_content()
    assert widget(page, node, "text_threshold") == pytest.approx(0.3)
    page.get_by_role("button", name="auto").click()
    assert (widget(page, node, "box_threshold"), widget(page, node, "text_threshold")) == (-1, -1)
    assert kept(page) == all_boxes

    # A click or a key leaves a box out, and the next run follows.
    slider.fill(str(scores[0] + 0.01))
    some = kept(page)
    page.locator(f"{BOX}[aria-pressed=true]").last.click()
    page.locator(f"{BOX}.ib-faint").first.focus()
    page.keyboard.press("Enter")
    assert kept(page) == some
    selection = json.loads(widget(page, node, "selection"))
    assert len(selection["out"]) == len(selection["in"]) == 1
    page.screenshot(path=shots / f"region_chosen_{kind}.png")
    run(page)
    result = server.get("/history?max_items=1")
    (outputs,) = [each["outputs"] for each in result.values()]
    report = outputs[str(node)]["text"][0]
    assert sum(" to " in line for line in report.splitlines()) == some
    assert kept(page) == some
    assert page.locator(".ib-region-words").text_content() == f"{some} of {all_boxes} boxes kept"
    page.get_by_role("button", name="Reset choices").click()
    assert widget(page, node, "selection") == "" and kept(page) == some


def test_auto_puts_back_the_words_threshold_that_the_slider_lowered(server, open_page, repository):
    pairs = repository / "example_workflows" / "pairs" / "light_from_the_right"
    shutil.copy(pairs / "3_0.png", server.base / "input" / "region_again.png")
    page = open_page(vue=True)
    node = page.evaluate(BUILD, {"file": "region_again.png", "words": WORDS})
    run(page)
    page.wait_for_selector(BOX)

    def lower_and_run(value):
        page.get_by_label("Least score of a box").fill(value)
        run(page)
        assert widget(page, node, "text_threshold") == pytest.approx(float(value))

    lower_and_run("0.3")
    # The boxes that were found stay found.
    page.get_by_label("Least score of a box").fill("0.35")
    assert widget(page, node, "text_threshold") == pytest.approx(0.3)
    page.get_by_role("button", name="auto").click()
    assert (widget(page, node, "box_threshold"), widget(page, node, "text_threshold")) == (-1, -1)
    # Also in a node that undo has made anew.
    lower_and_run("0.25")
    page.evaluate(
        """async () => {
            const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
            tracker.captureCanvasState();
            app.graph.nodes[0].pos = [10, 70];
            tracker.captureCanvasState();
            await tracker.undo();
        }"""
    )
    page.wait_for_selector(BOX)
    assert widget(page, node, "text_threshold") == pytest.approx(0.25)
    page.get_by_role("button", name="auto").click()
    assert (widget(page, node, "box_threshold"), widget(page, node, "text_threshold")) == (-1, -1)
    # What the user sets in the node stays.
    page.evaluate(
        """(id) => {
            const { widgets } = app.graph.getNodeById(id);
            const words = widgets.find((each) => each.name === "text_threshold");
            words.value = 0.4;
            words.callback(0.4);
        }""",
        node,
    )
    lower_and_run("0.2")
    page.get_by_role("button", name="auto").click()
    assert (widget(page, node, "box_threshold"), widget(page, node, "text_threshold")) == (-1, 0.4)


def test_nothing_found_says_what_to_do(server, open_page, shots, repository):
    pairs = repository / "example_workflows" / "pairs" / "light_from_the_right"
    shutil.copy(pairs / "3_0.png", server.base / "input" / "region_none.png")
    page = open_page(vue=True)
    page.evaluate(BUILD, {"file": "region_none.png", "words": "unicorn"})
    run(page)
    page.wait_for_function(
        "() => document.querySelector('.ib-region-words').textContent === 'Nothing was found'"
    )
    page.screenshot(path=shots / "region_none.png")
    assert page.locator(BOX).count() == 0
