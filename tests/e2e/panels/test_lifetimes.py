"""Panels while their node is undone, copied, deleted, or waits for a server that fails."""

import base64
import json
from io import BytesIO

import pytest
from PIL import Image

from instructbrush.tests.e2e.drawn import wait_until_idle
from instructbrush.tests.e2e.workflows import SAVED

EVALUATE = """([size]) => {
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
    for (const node of [edited, truth]) for (const side of [0, 1]) node.widgets[side].value = 64;
    truth.widgets[0].value = size;
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
    return evaluate.size[1];
}"""
SLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 1536, "height": 1536, "batch_size": 1, "color": 0}},
    "2": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 31, "sigma": 9.0}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}
RUN = """() => new Promise((resolve) => {
    for (const kind of ["execution_success", "execution_error"])
        app.api.addEventListener(kind, resolve, { once: true });
    app.queuePrompt(0);
})"""
TABLE = "() => document.querySelector('.ib-table')?.textContent.includes('PSNR')"
BOARD = """(folder) => {
    app.graph.clear();
    const node = LiteGraph.createNode("InstructBrushLoadPairs");
    node.pos = [60, 60];
    app.graph.add(node);
    const widget = node.widgets.find((each) => each.name === "folder");
    widget.value = folder;
    widget.callback(folder);
    node.setSize([460, 640]);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60, 60];
    app.canvas.setDirty(true, true);
}"""
DROP = """([name, content]) => {
    const transfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    const given = { bubbles: true, cancelable: true, dataTransfer: transfer };
    document.querySelector(".ib-pairs").dispatchEvent(new DragEvent("drop", given));
}"""
SAYS = "(text) => document.querySelector('.ib-pairs-says').textContent.includes(text)"
LONG = 'it\'s "quoted" & <b>雪 ' + "long " * 16


@pytest.fixture(scope="module")
def page(held_page):
    """One page for all tests."""
    with held_page() as opened:
        yield opened


def image():
    file = BytesIO()
    Image.linear_gradient("L").resize((64, 48)).save(file, "PNG")
    return file.getvalue()


def undo(page):
    page.mouse.click(1300, 800)
    page.keyboard.press("Control+z")


def test_results_stay_after_undo_and_in_another_workflow(page):
    page.evaluate(EVALUATE, [64])
    page.evaluate(RUN)
    page.wait_for_function(TABLE)
    page.evaluate(
        """() => {
            app.graph.nodes[0].pos = [80, 90];
            app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
        }"""
    )
    undo(page)
    page.wait_for_function("() => app.graph.nodes[0].pos[1] === 100")
    page.wait_for_function(TABLE, timeout=5_000)
    # Another workflow shows nothing of it, and the first one shows it again.
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    page.evaluate(EVALUATE, [64])
    page.wait_for_timeout(100)
    assert not page.evaluate(TABLE)
    page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    page.wait_for_function(TABLE, timeout=5_000)


@pytest.mark.parametrize("size", [64, 32], ids=["result", "error"])
def test_a_run_that_ends_in_another_workflow_shows_nothing_there(size, page, server):
    """Workflows share ids of nodes."""
    page.evaluate(EVALUATE, [size])
    # The run waits for this one, while the other workflow is opened.
    server.post("/prompt", {"prompt": SLOW})
    page.evaluate("() => app.queuePrompt(0)")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    page.evaluate(EVALUATE, [64])
    assert server.get("/queue")["queue_pending"]
    wait_until_idle(server)
    page.wait_for_timeout(300)
    assert not page.evaluate(TABLE) and page.locator(".ib-error").count() == 0
    # Neither does it after undo, and a run of this workflow is shown.
    page.evaluate(
        """async () => {
            const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
            app.graph.nodes[0].pos = [80, 90];
            changeTracker.captureCanvasState();
            await changeTracker.undo();
        }"""
    )
    page.wait_for_timeout(300)
    assert not page.evaluate(TABLE)
    page.evaluate(RUN)
    page.wait_for_function(TABLE, timeout=30_000)


def test_a_run_on_several_images_says_a_remark_once(page):
    page.evaluate(EVALUATE, [64])
    told = "LPIPS is not measured here, because its weights are missing."
    results = [f"PSNR 30.00\nSSIM 0.9000\n\n{told}", f"PSNR 31.00\nSSIM 0.9000\n\n{told}"]
    page.evaluate(
        """(text) => app.graph.findNodesByType("InstructBrushEvaluate")[0].onExecuted({ text })""", results
    )
    shown = page.locator(".ib-table").text_content()
    assert shown == f"PSNR 30.00\nSSIM 0.9000\n\n{told}\n\nPSNR 31.00\nSSIM 0.9000"


def test_an_error_changes_no_saved_size(page):
    height = page.evaluate(EVALUATE, [32])
    page.evaluate(RUN)
    page.locator(".ib-error").wait_for(timeout=20_000)
    sizes = page.evaluate(
        """() => {
            const node = app.graph.findNodesByType("InstructBrushEvaluate")[0];
            return [node.size[1], node.serialize().size[1]];
        }"""
    )
    assert sizes[0] > height and sizes[1] == height


def test_a_board_is_copied_with_names_of_any_kind(page, server):
    folder = server.base / "input" / "names"
    folder.mkdir()
    for side in ("before", "after"):
        (folder / f"{LONG}{side}.png").write_bytes(image())
    page.evaluate(BOARD, "names")
    page.wait_for_selector(".ib-pair")
    assert page.locator(".ib-pair-name").text_content() == LONG.strip()
    tile, grid = (page.locator(each).bounding_box() for each in (".ib-pair", ".ib-pairs-grid"))
    assert tile["x"] + tile["width"] <= grid["x"] + grid["width"] + 1
    page.locator(".ib-pair [data-act=skip]").click()
    page.evaluate(
        """() => {
            app.canvas.copyToClipboard(new Set([app.graph.nodes[0]]));
            app.canvas.pasteFromClipboard({ position: [600, 60] });
        }"""
    )
    page.wait_for_function("() => document.querySelectorAll('.ib-pair.ib-skipped').length === 2")
    # Each node has decisions of its own.
    page.locator(".ib-pair [data-act=skip]").last.click()
    boards = page.evaluate(
        "() => app.graph.nodes.map((node) => node.widgets.find((each) => each.name === 'board').value)"
    )
    assert sorted(map(bool, boards)) == [False, True]


def test_says_why_an_image_was_not_uploaded(page, server):
    folder = server.base / "input" / "kept"
    folder.mkdir()
    for side in ("before", "after"):
        (folder / f"x_{side}.png").write_bytes(image())
    page.evaluate(BOARD, "kept")
    page.wait_for_selector(".ib-pair")
    given = ["y_before.png", base64.b64encode(image()).decode()]
    fail = {"status": 500, "body": "oops"}
    for answer, sentence in (
        (lambda route: route.fulfill(**fail), "y_before.png was not uploaded: The server answered 500."),
        (lambda route: route.abort(), "y_before.png was not uploaded: The server does not answer."),
    ):
        page.route("**/upload/image", answer)
        with page.expect_response(lambda response: "/instructbrush/pairs?" in response.url):
            page.evaluate(DROP, given)
        page.wait_for_function(SAYS, arg=sentence)
        page.wait_for_timeout(200)
        # It stays when the folder has been read again.
        assert page.evaluate(SAYS, sentence) and page.locator(".ib-pair").count() == 1
        page.unroute("**/upload/image")
    page.evaluate(DROP, given)
    page.wait_for_function("() => document.querySelectorAll('.ib-pair').length === 2")
    assert not page.evaluate(SAYS, "was not uploaded")
    # A node that is deleted while its images are uploaded leaves no error and no change behind.
    page.route("**/upload/image", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.evaluate(DROP, ["z_before.png", given[1]])
    page.evaluate("() => app.graph.clear()")
    page.wait_for_timeout(600)
    page.unroute("**/upload/image")


def test_the_gallery_says_that_it_is_empty_or_cannot_be_read(page):
    lists = json.dumps({"cards": [], "unfinished": [], "families": {}})
    page.route("**/instructbrush/gallery", lambda route: route.fulfill(status=500, body="<html>"))
    page.locator(".instructbrush-gallery-tab-button").click()
    page.get_by_text("The server answered 500.").wait_for()
    page.unroute("**/instructbrush/gallery")
    page.locator(".instructbrush-gallery-tab-button").click()
    page.route("**/instructbrush/gallery", lambda route: route.fulfill(body=lists))
    page.locator(".instructbrush-gallery-tab-button").click()
    page.get_by_text("There are no instructions yet.").wait_for()
    page.unroute("**/instructbrush/gallery")
    page.locator(".instructbrush-gallery-tab-button").click()


def test_front_ends_that_draw_numbers_otherwise_show_the_number(page):
    shown = page.evaluate(
        """async () => {
            const { addNumbers } = await import("/extensions/instructbrush/js/widgets/numbers.js");
            class Node { static nodeData = { input: { required: { scale: ["FLOAT", { auto: -1 }] } } } }
            const widget = { name: "scale", value: -0.1, callback() { return 7; } };
            addNumbers(Object.assign(new Node(), { widgets: [widget] }));
            return [widget.callback(), widget.value, Object.keys(widget)];
        }"""
    )
    assert shown == [7, -1, ["name", "value", "callback"]]


def test_nodes_in_subgraphs_are_forgotten_with_their_workflow(open_page, load_example):
    """ComfyUI tells only the nodes outside of subgraphs that they are removed."""
    page = open_page()
    load_example(page, SAVED)
    page.evaluate(
        """async () => {
            const nodes = await import("/extensions/instructbrush/js/nodes.js");
            const host = app.graph.nodes.find((node) => node.subgraph);
            window.removed = [];
            for (const [name, node] of Object.entries({ host, inner: host.subgraph.nodes[0] })) {
                nodes.whileInGraph(node, () => {}, () => window.removed.push(name));
                node.onAdded(node.graph);
            }
            nodes.forgetClosed();
        }"""
    )
    assert page.evaluate("() => window.removed") == []
    load_example(page, SAVED)
    assert sorted(page.evaluate("() => window.removed")) == ["host", "inner"]
