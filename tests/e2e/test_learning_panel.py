"""The learning panel in both renderers: phases, curves, previews, buttons, and a reload while it learns."""

import json
import time

import pytest

MODULES = "/extensions/instructbrush/js/learning"
PANEL = ".ib-learning"
RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])


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


def wait_until_idle(server, seconds=240):
    """Waits until the queue is empty."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        queue = server.get("/queue")
        if not queue["queue_running"] and not queue["queue_pending"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"the server is still busy:\n{server.tail()}")


def interrupt(server):
    # The edits that follow in the graph are tested elsewhere.
    server.post("/interrupt", {})
    wait_until_idle(server)


@RENDERERS
def test_learns_survives_a_reload_and_ends_early(vue, server, open_page, load_example, shots):
    kind = "vue" if vue else "classic"
    page = open_page(vue=vue)
    learn = learning_node(load_example(page, "learn_from_pairs"))
    # Each renderer gets another seed, so that the cache does not answer the second run.
    values = {"preset": "custom", "steps": 400, "preview_every": 10, "hold_out": 1, "seed": 70 + vue}
    prepare(page, learn, **values)
    assert page.locator(f"{PANEL} .ib-words").text_content() == "Not run yet"
    page.evaluate("() => app.queuePrompt(0)")
    wait_for_headline(page, r"^[1-9]\d* \/ 400 · .* left · loss")
    page.wait_for_function("() => document.querySelector('.ib-scrubber')?.max >= 2", timeout=60_000)
    assert page.locator(".ib-best-text").text_content().startswith("best at ")
    page.screenshot(path=shots / f"learning_{kind}.png")

    page.reload()
    page.wait_for_function("() => window.app?.extensionManager && window.app.graph")
    page.wait_for_selector("#splash-loader", state="detached", timeout=120_000)
    page.wait_for_function("() => LiteGraph.registered_node_types.InstructBrushLearn")
    load_example(page, "learn_from_pairs")
    prepare(page, learn, **values)
    wait_for_headline(page, r"^[1-9]\d* \/ 400", 20)
    before = page.evaluate("() => document.querySelector('.ib-words').textContent")
    page.wait_for_function("() => document.querySelector('.ib-scrubber').max >= 2", timeout=10_000)
    captions = page.locator(f"{PANEL} figcaption").all_text_contents()
    assert captions == ["before", "now", "goal"]
    page.wait_for_function(
        f"() => document.querySelector('.ib-words').textContent !== {json.dumps(before)}", timeout=30_000
    )
    page.locator(".ib-scrubber").press("Home")
    assert page.locator(f"{PANEL} figcaption").all_text_contents()[1] == "step 10"
    page.get_by_role("button", name="Stop and use").click()
    wait_for_headline(page, r"^Stopped at \d+ \/ 400 and used")
    assert page.get_by_role("button", name="Learn on").is_visible()
    # The panel is neither saved in the workflow nor sent to the server.
    assert "ib-panel" not in page.evaluate("() => JSON.stringify(app.graph.serialize())")
    assert "learning" not in page.evaluate("async () => (await app.graphToPrompt()).output")[learn]["inputs"]
    page.wait_for_timeout(500)
    page.screenshot(path=shots / f"ended_early_{kind}.png")
    interrupt(server)
