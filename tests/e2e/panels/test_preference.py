"""Judge Preference in the browser, in both renderers: clicks, keys, a page reload, ratings."""

import json

import pytest

from instructbrush.tests.e2e.drawn import wait_until_idle
from instructbrush.tests.e2e.workflows import JUDGED

# Builds a graph with plain images of the given colors, 3 each, and a gray source.
BUILD = """({ study, colors, values }) => {
    app.graph.clear();
    const add = (type, values, x) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, 100];
        app.graph.add(node);
        for (const [key, value] of Object.entries(values)) {
            node.widgets.find((widget) => widget.name === key).value = value;
        }
        return node;
    };
    const named = { study, first_name: "words", second_name: "learned", instructions: "one\\ntwo\\nthree" };
    const judge = add("InstructBrushPreference", { ...named, ...values }, 100);
    const inputs = ["first", "second", "third", "fourth"].slice(0, colors.length);
    for (const [name, color] of [...inputs.map((name, i) => [name, colors[i]]), ["source", "0x777777"]]) {
        const batch_size = name === "source" ? 1 : 3;
        const image = add("EmptyImage", { width: 64, height: 64, batch_size, color: Number(color) }, -300);
        image.connect(0, judge, judge.inputs.findIndex((input) => input.name === name));
    }
    app.canvas.ds.scale = 0.9;
    app.canvas.ds.offset = [60, 0];
    app.canvas.setDirty(true, true);
    return judge.id;
}"""
BLUE, RED, GREEN, YELLOW = "0x3355aa", "0xaa5533", "0x33aa55", "0xaaaa33"


def build(page, study, colors=(BLUE, RED), **values):
    return page.evaluate(BUILD, {"study": study, "colors": list(colors), "values": values})


def judge_of(page):
    return page.evaluate(
        "() => app.graph.nodes.find((node) => node.comfyClass === 'InstructBrushPreference').id"
    )


def words(page):
    return page.locator(".ib-preference .ib-words").text_content()


def button(page, text):
    return page.locator(".ib-choices button", has_text=text)


def wait_for(page, text):
    page.wait_for_function(
        "(text) => document.querySelector('.ib-preference .ib-words').textContent.includes(text)",
        arg=text,
        timeout=60_000,
    )


def ready(page):
    page.wait_for_function("() => !document.querySelector('.ib-choices button').disabled", timeout=60_000)


def moved(transform):
    """Percents of the first number in a CSS transform."""
    return float(transform.removeprefix("translate(").split("%")[0])


def log_of(server, study):
    return [
        json.loads(line)
        for line in (server.base / "output" / "instructbrush_studies" / study / "study.jsonl")
        .read_text()
        .splitlines()
    ]


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_study_survives_a_page_reload(vue, server, open_page, shots):
    study = f"browser_{'vue' if vue else 'classic'}"
    page = open_page(vue=vue)
    build(page, study)
    assert words(page) == "Run the graph to begin" and button(page, "First").is_disabled()
    page.evaluate("() => app.queuePrompt(0)")
    wait_for(page, f"{study} · 0 of 3")
    ready(page)
    page.screenshot(path=shots / f"preference_{'vue' if vue else 'classic'}.png")
    # The judge sees three images and the instruction, and nothing that names a method.
    assert page.locator(".ib-preference img:visible").count() == 3
    assert page.locator(".ib-instruction").text_content() in ("one", "two", "three")
    assert page.locator(".ib-preference").inner_html().count("learned") == 0
    assert page.evaluate(
        "() => [...document.querySelectorAll('.ib-preference img')].map((image) => image.naturalWidth)"
    ) == [64, 64, 64]
    # The hidden widget is not displayed.
    assert (
        page.evaluate(
            "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'judgements').hidden",
            judge_of(page),
        )
        is True
    )

    button(page, "First").click()
    wait_for(page, "1 of 3")
    ready(page)
    page.keyboard.press("2")
    wait_for(page, "2 of 3")
    ready(page)
    page.keyboard.press("0")
    wait_for(page, "1 of 3")
    # The graph did not run again: the judgements are in the workflow and in the user's data only.
    assert len(log_of(server, study)) == 1
    key = log_of(server, study)[0]["key"]
    kept = f"/userdata/instructbrush%2Fpreference-{key}.json"
    page.wait_for_function(
        """async (kept) => {
            const response = await fetch('/api' + kept);
            return response.ok && (await response.json()).events.length === 3;
        }""",
        arg=kept,
    )

    # A new page gets the judgements when it continues the study, without generating the images again.
    page.close()
    page = open_page(vue=vue)
    build(page, study)
    button(page, "Continue a stored study").click()
    wait_for(page, f"{study} · 1 of 3")
    ready(page)
    page.locator(".ib-preference").focus()
    page.keyboard.press("3")
    wait_for(page, "2 of 3")
    ready(page)
    button(page, "Tie").click()
    # After the last judgement the panel stores everything and shows the ratings.
    page.wait_for_selector(".ib-ratings tr", timeout=60_000)
    page.screenshot(path=shots / f"preference_rated_{'vue' if vue else 'classic'}.png")
    table = page.locator(".ib-ratings").inner_text()
    assert "words" in table and "learned" in table and "±" in table and words(page) == f"{study} · 3 of 3"
    events = log_of(server, study)[1:]
    assert [event.get("choice", "undo") for event in events] == ["left", "tie", "undo", "right", "tie"]
    assert (
        page.evaluate(
            "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'judgements').value",
            judge_of(page),
        )
        == ""
    )
    page.wait_for_function("async (kept) => (await fetch('/api' + kept)).status === 404", arg=kept)

    # The last judgement can still be undone; judging again gives new ratings.
    button(page, "Undo").click()
    wait_for(page, "2 of 3")
    assert page.locator(".ib-ratings tr").count() == 0
    ready(page)
    page.keyboard.press("1")
    page.wait_for_selector(".ib-ratings tr", timeout=60_000)
    assert log_of(server, study)[-1]["choice"] == "left" and len(log_of(server, study)) == 8


def test_best_of_four_is_picked_by_key_and_click(server, open_page, shots):
    page = open_page(vue=True)
    four = (BLUE, RED, GREEN, YELLOW)
    criteria = "consistency, image quality"
    build(page, "four", four, vote="best", third_name="c", fourth_name="d", criteria=criteria)
    page.evaluate("() => app.queuePrompt(0)")
    wait_for(page, "four · 0 of 6")
    ready(page)
    page.screenshot(path=shots / "preference_four.png")
    names = page.locator(".ib-preference figure:visible figcaption").all_text_contents()
    assert names == ["Source", "First", "Second", "Third", "Fourth"]
    boxes = [image.bounding_box() for image in page.locator(".ib-preference img:visible").all()]
    assert len(boxes) == 5 and min(min(box["width"], box["height"]) for box in boxes) > 60
    assert button(page, "Tie").count() == 0
    question = page.locator(".ib-question")
    assert question.text_content().startswith("consistency: Which one keeps ")
    button(page, "Fourth").click()
    wait_for(page, "1 of 6")
    ready(page)
    # The next criterion is asked about the same images.
    assert question.text_content().startswith("image quality: Which one looks better")
    page.keyboard.press("0")
    wait_for(page, "0 of 6")
    for count, key in enumerate("312141", start=1):
        ready(page)
        page.keyboard.press(key)
        if count < 6:
            wait_for(page, f"{count} of 6")
    page.wait_for_selector(".ib-ratings tr", timeout=60_000)
    page.screenshot(path=shots / "preference_four_rated.png")
    assert page.locator(".ib-preference img:visible").count() == 0
    assert not page.locator(".ib-sides").is_visible()
    heads = page.locator(".ib-ratings tr").first.locator("th").all_text_contents()
    assert heads == ["Method", "consistency", "image quality", "all"]
    events = log_of(server, "four")[1:]
    assert [event.get("choice", "undo") for event in events] == ["4", "undo", *"312141"]
    shares = page.locator(".ib-ratings tr td:last-child").all_text_contents()
    assert len(shares) == 4 and 98 <= sum(int(share.split()[0]) for share in shares) <= 102


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_images_are_compared_by_slider_and_flicker_and_zoomed_together(vue, open_page, shots):
    kind = "vue" if vue else "classic"
    page = open_page(vue=vue)
    build(page, f"views_{kind}")
    page.evaluate("() => app.queuePrompt(0)")
    wait_for(page, "0 of 3")
    ready(page)
    viewer = page.locator(".ib-viewer")
    panel = page.locator(".ib-preference").bounding_box()
    # The images come first and take most of the panel.
    assert viewer.bounding_box()["y"] - panel["y"] < 10
    assert viewer.bounding_box()["height"] > 0.6 * panel["height"]
    # They grow with the node.
    small = page.locator(".ib-frame").first.bounding_box()["height"]
    page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            node.setSize([node.size[0], node.size[1] + 200]);
            app.canvas.setDirty(true, true);
        }""",
        judge_of(page),
    )
    page.wait_for_function(
        "(small) => document.querySelector('.ib-frame').getBoundingClientRect().height > small + 60",
        arg=small,
    )

    # With the focus in the panel, the wheel zooms all images at the same place.
    page.locator(".ib-preference").focus()
    frames = page.locator(".ib-frame")
    box = frames.nth(1).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5)
    scale = page.evaluate("() => app.canvas.ds.scale")
    page.mouse.wheel(0, -100)
    page.mouse.wheel(0, -100)
    transforms = "() => [...document.querySelectorAll('.ib-frame img')].map((image) => image.style.transform)"
    page.wait_for_function(f"() => ({transforms})()[0].includes('scale(1.5625)')")
    zoomed = page.evaluate(transforms)
    assert len(set(zoomed)) == 1 and moved(zoomed[0]) == pytest.approx(-42.2, abs=0.5)
    assert page.evaluate("() => app.canvas.ds.scale") == scale, "the wheel does not zoom the canvas"
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.85, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()
    panned = page.evaluate(transforms)
    assert len(set(panned)) == 1 and moved(panned[0]) == pytest.approx(-32.2, abs=1.5)
    page.get_by_role("button", name="Show whole images").click()
    assert "scale(1)" in page.evaluate(transforms)[0]

    page.get_by_role("button", name="Slider").click()
    shown = page.locator(".ib-preference figure:visible figcaption")
    assert shown.all_text_contents() == ["First", "Second"]
    left, right = (each.bounding_box() for each in page.locator(".ib-frame:visible").all())
    assert left == right
    page.mouse.move(left["x"] + left["width"] * 0.3, left["y"] + left["height"] * 0.5)
    page.wait_for_function("() => Math.abs(document.querySelector('.ib-cut').value - 30) <= 1")
    page.screenshot(path=shots / f"preference_slider_{kind}.png")
    # Any two images can be compared.
    page.get_by_label("Second shown image").select_option("Source")
    assert shown.all_text_contents() == ["Source", "First"]
    page.get_by_label("Second shown image").select_option("Second")
    # Keys judge in every view.
    page.keyboard.press("1")
    wait_for(page, "1 of 3")
    ready(page)
    page.get_by_role("button", name="Flicker").click()
    opacities = """() => [...document.querySelectorAll('.ib-preference figure:not([hidden])')]
        .map((figure) => getComputedStyle(figure).opacity).join()"""
    for expected in ("1,0", "0,1", "1,0"):
        page.wait_for_function(f"() => ({opacities})() === '{expected}'", timeout=5000)
    page.screenshot(path=shots / f"preference_flicker_{kind}.png")
    page.keyboard.press("3")
    wait_for(page, "2 of 3")
    assert page.evaluate("() => document.activeElement.className").startswith("ib-panel ib-preference")


def test_undo_and_redo_pass_by_a_judgement(open_page):
    page = open_page()
    build(page, "undone")
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    page.evaluate("() => app.queuePrompt(0)")
    wait_for(page, "0 of 3")
    ready(page)
    page.evaluate(f"() => {tracker}.captureCanvasState()")
    button(page, "First").click()
    wait_for(page, "1 of 3")
    page.evaluate("() => { window.judged = app.graph.nodes[0]; }")
    page.evaluate(f"() => {tracker}.undo()")
    page.wait_for_function("() => app.graph.nodes[0] && app.graph.nodes[0] !== window.judged")
    wait_for(page, "1 of 3")
    ready(page)
    page.evaluate(f"() => {tracker}.captureCanvasState()")
    assert page.evaluate(f"() => {tracker}.redoQueue.length") == 1
    # The judgement is not lost: it is in the user's data, and the next run stores it.
    sent = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert json.loads(sent[str(judge_of(page))]["inputs"]["judgements"])["events"][0]["choice"] == "left"
    page.evaluate(f"() => {tracker}.redo()")
    page.wait_for_function(
        "(id) => app.graph.getNodeById(id)?.widgets.find((w) => w.name === 'judgements').value",
        arg=judge_of(page),
    )
    wait_for(page, "1 of 3")


def test_storing_judgements_keeps_the_results_of_other_nodes(server, open_page):
    page = open_page()
    build(page, "kept")
    page.evaluate("() => app.queuePrompt(0)")
    for count in range(3):
        wait_for(page, f"{count} of 3")
        ready(page)
        button(page, "Tie").click()
    page.wait_for_selector(".ib-ratings tr", timeout=60_000)
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_timeout(500)
    wait_until_idle(server)
    (run,) = [entry for key, entry in server.get("/history").items() if key not in before]
    (cached,) = [found["nodes"] for kind, found in run["status"]["messages"] if kind == "execution_cached"]
    images = [key for key, node in run["prompt"][2].items() if node["class_type"] == "EmptyImage"]
    assert len(images) == 3 and set(images) <= set(cached)


def test_tried_strengths_begin_no_study(server, open_page, load_example):
    page = open_page(vue=True)
    load_example(page, JUDGED)
    page.evaluate(
        """() => {
            const judge = app.graph.nodes.find((node) => node.comfyClass === "InstructBrushPreference");
            judge.widgets.find((widget) => widget.name === "study").value = "tried";
            const host = app.graph.nodes.find((node) => node.subgraph);
            host.widgets.find((widget) => widget.name === "steps").value = 2;
            const items = app.collectNodeMenuItems(host);
            items.find((item) => item?.content?.startsWith("Strength:")).callback();
        }"""
    )
    dialog = page.get_by_role("dialog", name="Strength of the instruction")
    dialog.get_by_role("button", name="Try 5").click()
    # Two of the five are enough here.
    page.wait_for_function(
        """() => document.querySelectorAll(".ib-strength-dialog img").length >= 2
            || document.querySelector(".ib-strength-dialog .ib-strength-says").textContent""",
        timeout=90_000,
    )
    assert dialog.locator("img").count() >= 2, dialog.locator(".ib-strength-says").text_content()
    dialog.get_by_role("button", name="Cancel").click()
    dialog.get_by_role("button", name="Try 5").wait_for()
    wait_until_idle(server)
    assert not (server.base / "output" / "instructbrush_studies" / "tried").exists()


def test_events_in_a_saved_workflow_count_once(open_page):
    page = open_page()
    results = page.evaluate(
        """async () => {
            const panel = await import("/extensions/instructbrush/js/judging/events.js");
            const { applyEvents, eventFile, mergeEvents, newId, parseEvents } = panel;
            const a = { id: "a", number: 0, choice: "left" };
            const b = { id: "b", number: 1, choice: "tie" };
            const again = { id: "c", number: 1, choice: "right" };
            const refused = (key) => { try { return eventFile(key); } catch { return "refused"; } };
            return {
                files: ["x/../../comfy.settings", "", `${newId()}\n`, undefined].map(refused),
                file: eventFile("0123456789abcdef".repeat(2)),
                plain: applyEvents([a], [b]).map((each) => each.id),
                late: applyEvents([a, b], [again]).map((each) => each.id),
                undone: applyEvents([a], [b, { id: "u", undo: "b" }, again]).map((each) => each.id),
                stored: applyEvents([a], [{ id: "u", undo: "a" }]).length,
                merged: mergeEvents([a, b], [b, again]).map((each) => each.id),
                other: parseEvents(JSON.stringify({ key: "x", events: [a] }), "y").length,
                own: parseEvents(JSON.stringify({ key: "x", events: [a] }), "x").length,
                none: ["", "{", "null"].map((text) => parseEvents(text, "x").length),
            };
        }"""
    )
    assert results == {
        # No study leads to another file of the user.
        "files": ["refused"] * 4,
        "file": f"instructbrush/preference-{'0123456789abcdef' * 2}.json",
        "plain": ["a", "b"],
        "late": ["a", "b"],
        "undone": ["a", "c"],
        "stored": 0,
        "merged": ["a", "b", "c"],
        "other": 0,
        "own": 1,
        "none": [0, 0, 0],
    }
