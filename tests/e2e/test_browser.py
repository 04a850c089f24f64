"""What a user sees: the nodes and their widgets in both renderers, the live panel, help pages, translations, the template."""

import json
import threading
import time

import pytest

from instructbrush.tools import make_reference

NODES = {
    "Load InstructPix2Pix",
    "Load Edit Pairs",
    "Make Edit Pairs",
    "Learn Instruction",
    "Learn Instruction (CLIP space)",
    "Save Instruction",
    "Load Instruction",
    "Apply Instruction",
    "Edit Guider",
    "Fixed Noise",
    "Load OpenCLIP",
    "Unique Phrases",
    "Caption Init",
    "Scale Instruction",
    "Blend Instructions",
    "Compose Instructions",
    "Add Words to Instruction",
    "Inspect Instruction",
    "Evaluate Edit",
    "Judge Preference",
    "Load Region Finder",
    "Find Region",
    "Clean Region",
    "Soft Region",
    "Region Edit",
    "Combine Regions",
    "Paste Back",
    "Region Conditioning",
    "Load MLLM",
    "Explain Instruction (MLLM)",
    "Load Connector",
    "Encode Instruction (MLLM)",
}
MODULES = "/extensions/instructbrush/js"


def test_reference_follows_the_schemas(server, repository):
    """English texts and tables are those of the code (else: tools/make_reference.py); Chinese has the same keys."""
    info = server.object_info()
    english, chinese = (
        json.loads((repository / "locales" / lang / "nodeDefs.json").read_text(encoding="utf-8"))
        for lang in ("en", "zh")
    )
    assert english == make_reference.definitions(info)
    for name, node in make_reference.ours(info).items():
        text = (make_reference.PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert text == make_reference.page(text, node)
    assert keys(english) == keys(chinese)


def keys(tree):
    """The same tree without its texts."""
    return {key: keys(value) for key, value in tree.items()} if isinstance(tree, dict) else None


def test_every_input_and_output_has_a_tooltip(server):
    for name, node in make_reference.ours(server.object_info()).items():
        assert node["description"] and node["category"].startswith("InstructBrush/"), name
        assert all(options.get("tooltip") for _, options in make_reference.inputs_of(node).values()), name
        assert all(node["output_tooltips"]), name


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_learning_shows_its_progress(vue, server, open_page, load_workflow, repository, shots):
    page = open_page(vue=vue)
    # Both renderers must run, so that the second is not answered from the cache.
    prompt = load_workflow(page, repository / "example_workflows" / "learn_from_pairs.json")
    learn = next(key for key, node in prompt.items() if node["class_type"] == "InstructBrushLearn")
    page.evaluate(
        """([id, seed]) => {
            const node = app.graph.getNodeById(id);
            for (const [key, value] of Object.entries({ steps: 40, preview_every: 20, seed })) node.widgets.find((w) => w.name === key).value = value;
            app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [80, 60]; app.canvas.setDirty(true, true);
        }""",
        [learn, 7 + vue],
    )
    panel = page.locator(".ib-panel:has(.ib-chart)")
    assert panel.locator(".ib-words").text_content() == "Not run yet"
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_function(
        "() => /^[1-9]\\d* \\/ 40 · loss/.test(document.querySelector('.ib-words').textContent)",
        timeout=120_000,
    )
    page.screenshot(path=shots / f"learning_{'vue' if vue else 'classic'}.png")
    page.wait_for_function(
        "() => document.querySelector('.ib-words').textContent.startsWith('40 / 40')", timeout=240_000
    )
    assert page.locator("path.ib-mean").get_attribute("d").startswith("M40.0 ")
    assert page.locator(".ib-image").get_attribute("src").startswith("data:image/jpeg;base64,")
    # Nothing of the panel is saved or sent.
    assert page.evaluate("() => JSON.stringify(app.graph.serialize())").count("ib-panel") == 0
    assert "learning" not in page.evaluate("async () => (await app.graphToPrompt()).output")[learn]["inputs"]
    wait_until_idle(server)
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / f"learned_{'vue' if vue else 'classic'}.png")


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_a_preset_greys_out_what_it_decides(vue, open_page):
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


def wait_until_idle(server, seconds=240):
    """Until the queue is empty."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        queue = server.get("/queue")
        if not queue["queue_running"] and not queue["queue_pending"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"the server is still busy:\n{server.tail()}")


def test_cancelling_keeps_and_resumes(server, open_page, load_workflow, repository):
    page = open_page()
    prompt = load_workflow(page, repository / "example_workflows" / "learn_from_pairs.json")
    learn = next(key for key, node in prompt.items() if node["class_type"] == "InstructBrushLearn")
    kept = {
        key: prompt[key]
        for key in prompt
        if prompt[key]["class_type"] in ("InstructBrushLoadModel", "InstructBrushLearn", "InstructBrushSave")
    }
    pairs = prompt[learn]["inputs"]["pairs"][0]
    graph = {**kept, pairs: prompt[pairs]}
    graph[learn]["inputs"].update(preset="custom", steps=60, preview_every=0, seed=21)
    stopped = threading.Event()

    def stop(message):
        if message["type"] == "instructbrush.learn" and message["data"]["step"] >= 3 and not stopped.is_set():
            stopped.set()
            server.post("/interrupt", {})

    with pytest.raises(RuntimeError, match="interrupted"):
        server.run(graph, on_message=stop)
    unfinished = sorted(
        path.suffix for path in (server.base / "output" / "instructions" / "unfinished").iterdir()
    )
    assert unfinished == [".checkpoint", ".safetensors"]
    messages = server.run(graph).data("instructbrush.learn")
    assert messages[0]["step"] >= 3 and messages[-1]["step"] == 60
    assert not list((server.base / "output" / "instructions" / "unfinished").iterdir())


def test_panel_modules(open_page):
    """The panel's arithmetic, and that lost or repeated messages do no harm."""
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
              words, losses: panel.losses, thin: thin([1, 2, 3, 4, 5, 6], 3), same: thin([1, 2], 3), smooth: smooth([5, 5, 5]),
              brief: [brief(0.12345), brief(12.3456), brief(0.00001)], clock: clock(95), empty: chart.mean.getAttribute("d"),
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


def test_help_pages_are_served(server, open_page):
    page = open_page()
    for name in make_reference.ours(server.object_info()):
        text = page.evaluate(
            f"async () => {{ const r = await fetch('/extensions/instructbrush/docs/{name}.md'); return r.ok ? r.text() : '' }}"
        )
        assert text.startswith("# ") and "## Inputs" in text, name


def test_chinese(open_page, shots):
    page = open_page(language="zh")
    titles = page.evaluate(
        """() => {
            app.graph.clear();
            let x = 0;
            return ["InstructBrushApply", "InstructBrushEditGuider"].map((type) => {
                const node = LiteGraph.createNode(type);
                node.pos = [(x += 350), 0];
                app.graph.add(node);
                return [node.title, node.widgets[0].label ?? node.widgets[0].name, node.outputs[0].label ?? node.outputs[0].localized_name];
            });
        }"""
    )
    page.screenshot(path=shots / "chinese.png")
    assert titles == [["应用指令", "强度", "模型"], ["编辑引导器", "文字", "引导器"]]


def test_nodes_are_found_by_what_users_call_them(server):
    info = make_reference.ours(server.object_info())
    assert {node["display_name"] for node in info.values()} == NODES
    assert all(node.get("search_aliases") for node in info.values())
