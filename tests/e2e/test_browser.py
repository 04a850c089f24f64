"""The front end: nodes and widgets in both renderers, the live panel, help pages and translations."""

import json
import threading
import time

import pytest

from instructbrush.tests.support.node_names import NODES
from instructbrush.tools import make_reference

MODULES = "/extensions/instructbrush/js"


@pytest.fixture(scope="module")
def info(server):
    """Schemas of this pack's nodes, as the front end gets them."""
    found = make_reference.ours(server.object_info())
    assert len(found) == len(NODES)
    return found


def definitions(repository, language):
    return json.loads((repository / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_reference_matches_the_schemas(info, repository):
    """If this fails, run tools/make_reference.py and translate new keys in locales/zh."""
    english = definitions(repository, "en")
    assert english == make_reference.definitions(info)
    for name, node in info.items():
        text = (make_reference.PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert text == make_reference.page(text, node)
    assert keys(english) == keys(definitions(repository, "zh"))


def keys(tree):
    """Returns the tree without its texts."""
    return {key: keys(value) for key, value in tree.items()} if isinstance(tree, dict) else None


def test_every_input_and_output_has_a_tooltip(info):
    for name, node in info.items():
        assert node["description"] and node["category"].startswith("InstructBrush/"), name
        assert all(options.get("tooltip") for _, options in make_reference.inputs_of(node).values()), name
        assert all(node["output_tooltips"]), name


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_panel_shows_the_progress_of_learning(vue, server, open_page, load_example, shots):
    page = open_page(vue=vue)
    prompt = load_example(page, "learn_from_pairs")
    learn = learning_node(prompt)
    # Each renderer gets another seed, so that the cache does not answer the second run.
    page.evaluate(
        """([id, seed]) => {
            const node = app.graph.getNodeById(id);
            const settings = { steps: 20, preview_every: 10, seed };
            for (const [key, value] of Object.entries(settings))
                node.widgets.find((w) => w.name === key).value = value;
            app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [80, 60]; app.canvas.setDirty(true, true);
        }""",
        [learn, 7 + vue],
    )
    panel = page.locator(".ib-panel:has(.ib-chart)")
    assert panel.locator(".ib-words").text_content() == "Not run yet"
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_function(
        "() => /^[1-9]\\d* \\/ 20 · loss/.test(document.querySelector('.ib-words').textContent)",
        timeout=120_000,
    )
    page.screenshot(path=shots / f"learning_{'vue' if vue else 'classic'}.png")
    page.wait_for_function(
        "() => document.querySelector('.ib-words').textContent.startsWith('20 / 20')", timeout=240_000
    )
    assert page.locator("path.ib-mean").get_attribute("d").startswith("M40.0 ")
    assert page.locator(".ib-image").get_attribute("src").startswith("data:image/jpeg;base64,")
    # The panel is neither saved in the workflow nor sent to the server.
    assert page.evaluate("() => JSON.stringify(app.graph.serialize())").count("ib-panel") == 0
    assert "learning" not in page.evaluate("async () => (await app.graphToPrompt()).output")[learn]["inputs"]
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / f"learned_{'vue' if vue else 'classic'}.png")
    # The edits that follow in the graph are tested elsewhere.
    server.post("/interrupt", {})
    wait_until_idle(server)


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_preset_disables_the_inputs_that_it_sets(vue, open_page):
    page = open_page(vue=vue)
    disabled = page.evaluate(
        """() => {
            app.graph.clear();
            const node = LiteGraph.createNode("InstructBrushLearn");
            app.graph.add(node);
            const preset = node.widgets.find((widget) => widget.name === "preset");
            const names = () => node.widgets.filter((widget) => widget.disabled).map((widget) => widget.name);
            const found = [names()];
            preset.value = "custom";
            preset.callback("custom");
            found.push(names());
            const saved = node.serialize();
            preset.value = "paper";
            preset.callback("paper");
            node.configure(saved);
            found.push(names());
            return found;
        }"""
    )
    assert "steps" in disabled[0] and "learning_rate" in disabled[0] and "seed" not in disabled[0]
    assert disabled[1:] == [[], []]


def learning_node(prompt):
    """Returns the id of Learn Instruction."""
    (node,) = [key for key, node in prompt.items() if node["class_type"] == "InstructBrushLearn"]
    return node


def wait_until_idle(server, seconds=240):
    """Waits until the queue is empty."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        queue = server.get("/queue")
        if not queue["queue_running"] and not queue["queue_pending"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"the server is still busy:\n{server.tail()}")


def test_cancelled_learning_keeps_its_state_and_resumes(server, open_page, load_example):
    prompt = load_example(open_page(), "learn_from_pairs")
    learn = learning_node(prompt)
    kinds = ("InstructBrushLoadModel", "InstructBrushLearn", "InstructBrushSave")
    graph = {key: node for key, node in prompt.items() if node["class_type"] in kinds}
    pairs = prompt[learn]["inputs"]["pairs"][0]
    graph[pairs] = prompt[pairs]
    graph[learn]["inputs"].update(preset="custom", steps=30, preview_every=0, seed=21)
    stopped = threading.Event()

    def stop(message):
        if message["type"] == "instructbrush.learn" and message["data"]["step"] >= 3 and not stopped.is_set():
            stopped.set()
            server.post("/interrupt", {})

    with pytest.raises(RuntimeError, match="interrupted"):
        server.run(graph, on_message=stop)
    unfinished = server.base / "output" / "instructions" / "unfinished"
    assert sorted(path.suffix for path in unfinished.iterdir()) == [".checkpoint", ".safetensors"]
    messages = server.run(graph).data("instructbrush.learn")
    assert messages[0]["step"] >= 3 and messages[-1]["step"] == 30
    assert not list(unfinished.iterdir())


def test_panel_formats_numbers_and_tolerates_lost_messages(open_page):
    page = open_page()
    assert page.evaluate(
        f"""async () => {{
            const {{ thin, smooth, brief, LossChart }} = await import("{MODULES}/loss_chart.js");
            const {{ LearningPanel, clock }} = await import("{MODULES}/learning_panel.js");
            const panel = new LearningPanel();
            panel.show({{ step: 2, total: 4, first: 0, losses: [4, 2], seconds_left: 61.4, state: "" }});
            const words = panel.words.textContent;
            panel.show({{ step: 3, total: 4, first: 1, losses: [2, 1], seconds_left: null }});
            const chart = new LossChart();
            chart.draw([NaN, Infinity, 0], 3);
            return {{
              words, losses: panel.losses,
              thin: thin([1, 2, 3, 4, 5, 6], 3), same: thin([1, 2], 3), smooth: smooth([5, 5, 5]),
              brief: [brief(0.12345), brief(12.3456), brief(0.00001)],
              clock: clock(95), empty: chart.mean.getAttribute("d"),
            }};
        }}"""
    ) == {
        "words": "2 / 4 · loss 2.95 · 1:01 left",
        "losses": [4, 2, 1],
        "thin": [1.5, 3.5, 5.5],
        "same": [1, 2],
        "smooth": [5, 5, 5],
        "brief": ["0.123", "12.3", "1.0e-5"],
        "clock": "1:35",
        "empty": "",
    }


def test_serves_a_help_page_for_every_node(info, open_page):
    page = open_page()
    for name in info:
        text = page.evaluate(
            """async (name) => {
                const response = await fetch(`/extensions/instructbrush/docs/${name}.md`);
                return response.ok ? response.text() : '';
            }""",
            name,
        )
        assert text.startswith("# ") and "## Inputs" in text, name


def test_shows_nodes_in_chinese(open_page, shots):
    page = open_page(language="zh")
    titles = page.evaluate(
        """() => {
            app.graph.clear();
            let x = 0;
            return ["InstructBrushApply", "InstructBrushEditGuider"].map((type) => {
                const node = LiteGraph.createNode(type);
                node.pos = [(x += 350), 0];
                app.graph.add(node);
                const [widget] = node.widgets, [output] = node.outputs;
                return [node.title, widget.label ?? widget.name, output.label ?? output.localized_name];
            });
        }"""
    )
    page.screenshot(path=shots / "chinese.png")
    assert titles == [["应用指令", "强度", "模型"], ["编辑引导器", "文字", "引导器"]]


def test_every_node_has_its_display_name_and_search_aliases(info):
    assert {node["display_name"] for node in info.values()} == set(NODES.values())
    assert all(node.get("search_aliases") for node in info.values())
