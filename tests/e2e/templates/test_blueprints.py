"""The blueprints in ComfyUI's node library: found, added, wired and run."""

import contextlib

import pytest
from playwright.sync_api import TimeoutError

from instructbrush.tests.e2e.workflows import node_id, with_inputs

RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])

# Labels of inputs that are links, of widgets, and of outputs.
BLUEPRINTS = {
    "Learn an Edit": (
        ["pairs"],
        ["Model", "Words that are close to it", "Name of the instruction"],
        ["instruction", "model", "clip", "vae"],
    ),
    "Edit Image by Instruction": (
        ["model", "clip", "vae", "image", "instruction"],
        ["Strength", "Words to add", "Seed", "Sampling steps"],
        ["edited"],
    ),
    "Edit Region by Words": (
        ["model", "clip", "vae", "image", "instruction"],
        ["Where: what to edit", "Strength", "Words to add", "Finder", "Seed", "Sampling steps"],
        ["edited", "region"],
    ),
    "Explain and Edit": (
        ["model", "clip", "vae", "image"],
        ["Wish", "Vision-language model", "Seed", "Sampling steps"],
        ["edited", "words", "reason"],
    ),
    "Sample an Edit": (
        ["guider", "latent", "model", "vae"],
        ["Seed", "Sampling steps"],
        ["edited"],
    ),
}

# As the front end adds a blueprint of the library.
ADD = """async (data) => {
    app.graph.clear();
    const { nodes, definitions } = JSON.parse(data);
    const { subgraphs } = definitions;
    const added = app.canvas._deserializeItems({ nodes, subgraphs }, { position: [0, 0] });
    const [node] = added.nodes.values();
    await new Promise((done) => setTimeout(done, 200));
    const sockets = node.inputs.filter((input) => !input.widget);
    const texts = (slots) => slots.map((slot) => slot.label ?? slot.name);
    return [node.title, texts(sockets), texts(node.widgets), texts(node.outputs)];
}"""

LEARN_FROM_EXAMPLE = """async () => {
    const [host] = app.graph.nodes;
    const pairs = LiteGraph.createNode("InstructBrushLoadPairs");
    app.graph.add(pairs);
    pairs.widgets.find((widget) => widget.name === "folder").value = "light_from_the_right (example)";
    pairs.connect(0, host, 0);
    for (const [name, value] of [["init_text", "make it brighter"], ["name", "from_a_blueprint"]])
        host.widgets.find((widget) => widget.name === name).value = value;
    return (await app.graphToPrompt()).output;
}"""


@pytest.fixture(scope="module")
def library(server):
    """Name -> content of each blueprint of the pack, as the server gives it."""
    listed = server.get("/global_subgraphs")
    ours = {key: entry for key, entry in listed.items() if "instructbrush" in entry["info"]["node_pack"]}
    return {entry["name"]: server.get(f"/global_subgraphs/{key}")["data"] for key, entry in ours.items()}


@RENDERERS
def test_blueprints_have_named_inputs_widgets_and_outputs(vue, library, open_page, shots):
    assert set(library) == set(BLUEPRINTS)
    page = open_page(vue=vue)
    for name, expected in BLUEPRINTS.items():
        assert page.evaluate(ADD, library[name]) == [name, *expected]
        page.screenshot(path=shots / f"blueprint_{name.split()[0]}_{'vue' if vue else 'classic'}.png")


def test_node_search_finds_the_blueprints(open_page, shots):
    page = open_page()
    page.wait_for_load_state("networkidle")  # the front end loads blueprints after it is ready
    page.evaluate("() => app.graph.clear()")
    page.mouse.dblclick(800, 500)
    page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'")
    found = page.get_by_role("option").filter(has_text="Subgraph Blueprints / InstructBrush").first
    for _ in range(6):  # the list may be searched before the blueprints are in it
        page.keyboard.press("Control+a")
        page.keyboard.type("Learn an Edit", delay=20)
        with contextlib.suppress(TimeoutError):
            found.wait_for(timeout=5_000)
            break
    found.wait_for()
    page.screenshot(path=shots / "blueprint_search.png")


def test_learning_blueprint_learns_and_saves(library, server, open_page):
    page = open_page()
    page.evaluate(ADD, library["Learn an Edit"])
    prompt = page.evaluate(LEARN_FROM_EXAMPLE)
    learn, save = node_id(prompt, "InstructBrushLearn"), node_id(prompt, "InstructBrushSave")
    assert prompt[learn]["inputs"]["init_text"] == "make it brighter"
    assert prompt[save]["inputs"]["name"] == "from_a_blueprint"
    few = {"preset": "custom", "steps": 2, "preview_every": 0, "guidance": "default"}
    result = server.run(with_inputs(prompt, learn, **few))
    assert result.outputs[learn]["learning"]
    names = server.get("/object_info/InstructBrushLoad")["InstructBrushLoad"]["input"]["required"]["name"]
    assert any("from_a_blueprint.safetensors" in str(part) for part in names)
