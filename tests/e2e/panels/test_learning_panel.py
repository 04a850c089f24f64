"""The learning panel in both renderers: phases, curves, previews, buttons, and a reload while it learns."""

import json

import pytest

from instructbrush.tests.e2e.drawn import drawn, wait_until_idle
from instructbrush.tests.e2e.workflows import LEARN
from instructbrush.tools import browser as front_end

MODULES = "/extensions/instructbrush/js/learning"
PANEL = ".ib-learning"


@pytest.fixture(scope="module")
def page(held_page):
    """One page for all tests: in the classic renderer, until the first test reloads it in the other one."""
    with held_page() as opened:
        yield opened


def learning_node(prompt):
    """Returns the id of Learn Instruction."""
    (node,) = [key for key, node in prompt.items() if node["class_type"] == "InstructBrushLearn"]
    return node


def prepare(page, node, **values):
    """Sets widgets of a node and moves it into view."""
    page.evaluate(
        """([id, values]) => {
            const node = app.graph.getNodeById(id);
            for (const [key, value] of Object.entries(values))
                node.widgets.find((w) => w.name === key).value = value;
            const [x, y] = node.pos;
            app.canvas.ds.scale = 0.9;
            app.canvas.ds.offset = [300 - x, 60 - y];
            app.canvas.setDirty(true, true);
        }""",
        [node, values],
    )


def wait_for_headline(page, pattern, seconds=120):
    page.wait_for_function(
        f"() => /{pattern}/.test(document.querySelector('{PANEL} .ib-words')?.textContent)",
        timeout=1000 * seconds,
    )


def wait_for_previews(page):
    """Waits for three previews."""
    page.wait_for_function(f"() => document.querySelector('{PANEL} .ib-scrubber')?.max >= 2", timeout=60_000)


def interrupt(server):
    # The edits that follow in the graph are tested elsewhere.
    server.post("/interrupt", {})
    wait_until_idle(server)


@pytest.fixture(autouse=True)
def idle(server):
    """No run of one test is shown in the next."""
    yield
    interrupt(server)


def test_learns_survives_a_reload_in_the_other_renderer_and_ends_early(page, server, load_example, shots):
    learn = learning_node(load_example(page, LEARN))
    values = {"preset": "custom", "steps": 400, "preview_every": 5, "hold_out": 1, "seed": 70}
    prepare(page, learn, **values)
    assert page.locator(f"{PANEL} .ib-words").text_content() == "Not run yet"
    page.evaluate("() => app.queuePrompt(0)")
    wait_for_headline(page, r"^[1-9]\d* \/ 400 · .* left · loss")
    wait_for_previews(page)
    assert page.locator(".ib-best-text").text_content().startswith("best at ")
    page.screenshot(path=shots / "learning_classic.png")

    opened = page.evaluate("() => app.graph.serialize()")
    server.post("/settings", {"Comfy.VueNodes.Enabled": True})
    page.reload()
    page.wait_for_selector("#splash-loader", state="detached", timeout=120_000)
    page.wait_for_function(front_end.READY)
    page.evaluate("(opened) => app.loadGraphData(opened)", opened)
    prepare(page, learn, **values)
    wait_for_headline(page, r"^[1-9]\d* \/ 400", 20)
    before = page.locator(f"{PANEL} .ib-words").text_content()
    wait_for_previews(page)
    captions = page.locator(f"{PANEL} figcaption").all_text_contents()
    assert captions == ["before", "now", "goal"]
    page.wait_for_function(
        f"() => document.querySelector('{PANEL} .ib-words').textContent !== {json.dumps(before)}",
        timeout=30_000,
    )
    page.screenshot(path=shots / "learning_vue.png")
    page.locator(".ib-scrubber").press("Home")
    assert page.locator(f"{PANEL} figcaption").all_text_contents()[1] == "step 5"
    page.get_by_role("button", name="Stop and use").click()
    wait_for_headline(page, r"^Stopped at \d+ \/ 400 and used")
    assert page.get_by_role("button", name="Continue", exact=True).is_visible()
    # The panel is neither saved in the workflow nor sent to the server.
    assert "ib-panel" not in page.evaluate("() => JSON.stringify(app.graph.serialize())")
    assert "learning" not in page.evaluate("async () => (await app.graphToPrompt()).output")[learn]["inputs"]
    drawn(page)
    page.screenshot(path=shots / "ended_early.png")


def test_stops_for_later_resumes_and_is_done(page, server, load_example, shots):
    prompt = load_example(page, LEARN)
    learn = learning_node(prompt)
    prepare(page, learn, preset="custom", steps=80, preview_every=20, hold_out=2, seed=73, guidance="default")
    page.evaluate("() => app.queuePrompt(0)")
    wait_for_headline(page, r"^[1-9]\d* \/ 80")
    page.get_by_role("button", name="Stop for later").click()
    wait_for_headline(page, r"^Stopped at \d+ \/ 80$")
    message = page.locator(f"{PANEL} .ib-message").text_content()
    assert message.startswith("Kept as output/instructions/unfinished/")
    assert message.endswith("Run again with the same settings to resume.")
    assert page.locator(f"{PANEL} button").count() == 0
    drawn(page)
    page.screenshot(path=shots / "stopped.png")
    # A stop is no error.
    assert page.locator(".p-dialog").count() == 0
    wait_until_idle(server)
    page.evaluate("() => app.queuePrompt(0)")
    wait_for_headline(page, r"^Done · 80 \/ 80 · loss")
    assert page.locator(".ib-scrubber").is_visible()
    drawn(page)
    page.screenshot(path=shots / "learned.png")


def test_offers_a_size_for_large_images(page, load_example, shots):
    learn = learning_node(load_example(page, LEARN))
    prepare(page, learn)
    text = "These images are 1024 x 768 pixels. The pocket editor was made for 128 x 128."
    page.evaluate(
        f"""async ([node, text]) => {{
            const {{ showMessage }} = await import("{MODULES}/live.js");
            const run = {{ run: "r", phase: "encoding", pairs: 4, detail: "1 of 4", step: 0, total: 300 }};
            showMessage({{ ...run, node, advice: {{ text, size: 128 }} }});
        }}""",
        [learn, text],
    )
    assert page.locator(f"{PANEL} .ib-words").text_content() == "Encoding 4 pairs · 1 of 4"
    page.screenshot(path=shots / "size_advice.png")
    page.get_by_role("button", name="Use 128").click()
    size = page.evaluate(
        """(id) => {
            const pairs = app.graph.getNodeById(id).getInputNode(3);
            return [pairs.comfyClass, pairs.widgets.find((widget) => widget.name === "size").value];
        }""",
        learn,
    )
    assert size == ["InstructBrushLoadPairs", 128]
    assert "set to 128" in page.locator(f"{PANEL} .ib-advice").text_content()


def test_shows_no_run_of_another_workflow(page, load_example):
    """Workflows share ids of nodes."""
    learn = learning_node(load_example(page, LEARN))
    show = f"""async ([node, workflow, step]) => {{
        const {{ showMessage }} = await import("{MODULES}/live.js");
        const run = {{ run: "r", phase: "encoding", pairs: 4, detail: `${{step}} of 4`, step, total: 9 }};
        showMessage({{ ...run, node, workflow: workflow ?? app.graph.id }});
    }}"""
    page.evaluate(show, [learn, "another", 1])
    assert page.locator(f"{PANEL} .ib-words").text_content() == "Not run yet"
    page.evaluate(show, [learn, None, 2])
    assert page.locator(f"{PANEL} .ib-words").text_content() == "Encoding 4 pairs · 2 of 4"
    # A workflow that is saved under another name gets another id; its run goes on.
    page.evaluate(show, [learn, "another", 3])
    assert page.locator(f"{PANEL} .ib-words").text_content() == "Encoding 4 pairs · 3 of 4"


def test_formats_numbers_and_tolerates_lost_messages(page):
    found = page.evaluate(
        f"""async () => {{
            const {{ thin, smooth, brief, bestOf, LossChart }} = await import("{MODULES}/chart.js");
            const {{ LearningPanel, clock }} = await import("{MODULES}/panel.js");
            const {{ thinned }} = await import("{MODULES}/previews.js");
            const asked = [];
            const act = async (action) => asked.push(action);
            const panel = new LearningPanel({{ act, resize: {{ possible: () => false }} }});
            const words = [];
            const show = (message) => {{
              panel.show({{ run: "r", total: 4, pairs: 1, ...message }});
              words.push(panel.words.textContent);
            }};
            show({{ phase: "reading", step: 0, seconds_left: null }});
            const actions = ["use"];
            show({{ phase: "learning", step: 2, first: 0, losses: [4, 2], seconds_left: 61.4, actions }});
            panel.buttons.firstChild.click();
            show({{ phase: "learning", step: 3, first: 2, losses: [1], seconds_left: null }});
            show({{ phase: "stopped", step: 3, first: 3, state: "Kept." }});
            const losses = [...panel.losses];
            // A reloaded page: a message comes before the whole state.
            show({{ run: "s", phase: "learning", step: 3, first: 2, losses: [1] }});
            show({{ run: "s", phase: "learning", step: 2, first: 0, losses: [4, 2], previews: [[2, "data:,"]],
                    held_out: [[0, 3], [2, 1]] }});
            const chart = new LossChart();
            chart.draw([NaN, Infinity, 0], 3);
            const many = Array.from({{ length: 61 }}, (_, i) => [i, ""]);
            return {{
              words, losses, restored: panel.losses, best: panel.chart.markText.textContent, asked,
              thin: thin([[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 6]], 3), same: thin([[1, 1]], 3),
              smooth: smooth([5, 5, 5]), brief: [brief(0.12345), brief(12.3456), brief(0.00001)],
              clock: clock(95), empty: chart.mean.getAttribute("d"), none: bestOf([]) === undefined,
              thinned: thinned(many).map(([step]) => step).slice(-3),
            }};
        }}"""
    )
    assert found == {
        "words": [
            "Reading 1 pair",
            "2 / 4 · 1:01 left · loss 2.95",
            "3 / 4 · loss 2.23",
            "Stopped at 3 / 4",
            "3 / 4 · loss 1",
            "3 / 4 · loss 2.23",
        ],
        "losses": [4, 2, 1],
        "restored": [4, 2, 1],
        "best": "best at 2",
        "asked": ["use"],
        "thin": [[2, 1.5], [4, 3.5], [6, 5.5]],
        "same": [[1, 1]],
        "smooth": [5, 5, 5],
        "brief": ["0.123", "12.3", "1.0e-5"],
        "clock": "1:35",
        "empty": "",
        "none": True,
        "thinned": [56, 58, 60],
    }
