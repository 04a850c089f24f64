"""An error's sentence stands in the node that failed."""

import pytest

from instructbrush.tests.e2e.drawn import settled_height
from instructbrush.tools.comfy_server import ServerError

GRAPH = """([size]) => {
    app.graph.clear();
    const add = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        node.pos = [x, y];
        return node;
    };
    const [edited, truth] = [add("EmptyImage", 80, 100), add("EmptyImage", 80, 420)];
    const evaluate = add("InstructBrushEvaluate", 480, 100);
    edited.connect(0, evaluate, 0);
    truth.connect(0, evaluate, 1);
    truth.widgets[0].value = size;
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
}"""
EVALUATE = '() => app.graph.findNodesByType("InstructBrushEvaluate")[0].id'


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_shows_the_sentence_in_the_node_until_the_next_run(vue, open_page, shots):
    page = open_page(vue=vue)
    page.evaluate(GRAPH, [64])
    evaluate = page.evaluate(EVALUATE)
    height = settled_height(page, evaluate)
    page.evaluate("() => app.queuePrompt(0)")
    error = page.locator(".ib-error")
    error.wait_for(timeout=60_000)
    assert error.text_content().startswith("Evaluation: images (1, 512, 512, 3) cannot be compared with")
    assert error.get_attribute("role") == "alert"
    page.screenshot(path=shots / f"error_{'vue' if vue else 'classic'}.png")
    # The panel is not saved with the workflow.
    assert "cannot be compared" not in page.evaluate("() => JSON.stringify(app.graph.serialize())")
    page.evaluate('() => { app.graph.findNodesByType("EmptyImage")[1].widgets[0].value = 512 }')
    page.evaluate("() => app.queuePrompt(0)")
    page.wait_for_function(
        "() => document.querySelector('.ib-table')?.textContent.includes('PSNR')", timeout=60_000
    )
    assert error.count() == 0
    assert settled_height(page, evaluate) == height


def test_the_type_of_an_error_names_no_path(server):
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 64, "batch_size": 1, "color": 0}},
        "3": {"class_type": "InstructBrushEvaluate", "inputs": {"edited": ["1", 0], "truth": ["2", 0]}},
    }
    for node in prompt.values():
        node["_meta"] = {"title": ""}
    prompt["3"]["inputs"] |= {"caption_before": "", "caption_after": ""}
    with pytest.raises(ServerError) as caught:
        server.run(prompt)
    assert caught.value.kinds == ("InstructBrush.EvaluationError",)


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_a_size_that_the_user_sets_beside_an_error_stays(vue, open_page):
    page = open_page(vue=vue)
    page.evaluate(GRAPH, [64])
    evaluate = page.evaluate(EVALUATE)
    height = settled_height(page, evaluate)
    page.evaluate("() => app.queuePrompt(0)")
    page.locator(".ib-error").wait_for(timeout=60_000)
    settled_height(page, evaluate)
    saved = page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            node.setSize([node.size[0], node.size[1] + 150]);
            return node.serialize().size[1];
        }""",
        evaluate,
    )
    assert saved == pytest.approx(height + 150, abs=2)
    page.evaluate('() => { app.graph.findNodesByType("EmptyImage")[1].widgets[0].value = 512 }')
    page.evaluate("() => app.queuePrompt(0)")
    page.locator(".ib-error").wait_for(state="detached", timeout=60_000)
    assert settled_height(page, evaluate) == pytest.approx(height + 150, abs=2)
