"""The front end: nodes and widgets in both renderers, help pages and translations."""

import json

import pytest

from instructbrush.tests.support.node_names import NODES
from instructbrush.tools import make_reference


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
    for path, text in make_reference.pages(info).items():
        assert path.read_text(encoding="utf-8") == text, path
    assert keys(english) == keys(definitions(repository, "zh"))


def keys(tree):
    """Returns the tree without its texts."""
    return {key: keys(value) for key, value in tree.items()} if isinstance(tree, dict) else None


def test_every_input_and_output_has_a_tooltip(info):
    for name, node in info.items():
        assert node["description"] and node["category"].startswith("InstructBrush/"), name
        assert all(options.get("tooltip") for _, options in make_reference.inputs_of(node).values()), name
        assert all(node["output_tooltips"]), name


@pytest.mark.parametrize(("place", "heading"), [("{}.md", "## Inputs"), ("{}/zh.md", "## 输入")])
def test_serves_a_help_page_for_every_node(place, heading, info, open_page):
    page = open_page()
    texts = page.evaluate(
        """(places) => Promise.all(places.map(async (place) => {
            const response = await fetch(`/extensions/instructbrush/docs/${place}`);
            return response.ok ? response.text() : '';
        }))""",
        [place.format(name) for name in info],
    )
    for name, text in zip(info, texts, strict=True):
        assert text.startswith("# ") and heading in text, name


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
