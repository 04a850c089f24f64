"""How much a new user has to do, from the loaded page to an instruction that is learned and applied."""

import base64

import numpy as np
import pytest
from PIL import Image

from instructbrush.tests.e2e.drawn import wait_until_idle

STEPS = 6
"""Steps of learning and of sampling here, in place of some hundred."""

SHORT = """(steps) => {
    const set = (graph, kind, values) => {
        for (const node of graph.nodes) {
            if (node.subgraph) set(node.subgraph, kind, values);
            if (node.comfyClass !== kind) continue;
            for (const [name, value] of Object.entries(values)) {
                node.widgets.find((widget) => widget.name === name).value = value;
            }
        }
    };
    const short = { preset: "custom", steps, guidance: "default", preview_every: 0 };
    set(app.rootGraph, "InstructBrushLearn", short);
    set(app.rootGraph, "BasicScheduler", { steps });
}"""
DROP = """(board, files) => {
    const transfer = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
    }
    for (const type of ["dragover", "drop"]) {
        board.dispatchEvent(
            new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: transfer })
        );
    }
}"""


class User:
    """Counts what a user does on the page."""

    def __init__(self, page):
        self.page = page
        self.actions = 0

    def click(self, target):
        target.click()
        self.actions += 1

    def drop(self, target, files):
        contents = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in files]
        target.evaluate(DROP, contents)
        self.actions += 1

    def open_learning(self):
        """Opens the page *Learn an edit* from the side bar."""
        self.click(self.page.locator(".instructbrush-gallery-tab-button"))
        self.click(self.page.get_by_role("button", name="Learn an edit"))
        self.page.get_by_text("Pairs that show the edit", exact=True).wait_for(timeout=30_000)

    def run(self):
        """Presses Run and waits for the edited image."""
        self.page.evaluate(SHORT, STEPS)
        button = self.page.get_by_test_id("linear-run-button")
        self.click(button.or_(self.page.get_by_role("button", name="Run", exact=True)).last)
        self.page.locator("img[src*='edited_']").first.wait_for(timeout=180_000)


def learned(server):
    return {path.name for path in (server.base / "output" / "instructions").glob("*.safetensors")}


@pytest.fixture
def photos(tmp_path):
    """A folder with four JPEG pairs and one more photograph, 640 x 480."""
    y, x = np.mgrid[0:480, 0:640]
    for number in range(5):
        image = np.stack([(x * (number + 1)) % 256, y % 256, (x + y) % 200], 2).astype(np.uint8)
        if number == 4:
            Image.fromarray(image).save(tmp_path / "mine.jpg")
        else:
            Image.fromarray(image).save(tmp_path / f"{number}_before.jpg")
            Image.fromarray(255 - image).save(tmp_path / f"{number}_after.jpg")
    return tmp_path


def test_three_clicks_learn_and_apply_a_first_instruction(open_page, server, shots):
    before = learned(server)
    user = User(open_page())
    user.open_learning()
    user.run()
    assert user.actions <= 3
    assert len(learned(server) - before) == 1
    user.page.screenshot(path=shots / "first_edit.png")


def test_five_actions_learn_from_own_photographs(open_page, server, photos, shots):
    before = learned(server)
    page = open_page()
    user = User(page)
    user.open_learning()
    user.drop(page.locator(".ib-pairs"), sorted(photos.glob("?_*.jpg")))
    page.locator(".ib-pair-name").get_by_text("3", exact=True).wait_for(timeout=30_000)
    with page.expect_file_chooser() as chosen:
        user.click(page.get_by_role("button", name="Click to browse or drag an image"))
    chosen.value.set_files(photos / "mine.jpg")
    page.get_by_text("mine.jpg").first.wait_for()
    user.run()
    assert user.actions <= 5
    assert len(learned(server) - before) == 1
    wait_until_idle(server)
    prompt = server.get("/history?max_items=1")
    (entry,) = prompt.values()
    used = {node["class_type"]: node["inputs"] for node in entry["prompt"][2].values()}
    assert used["LoadImage"]["image"] == "mine.jpg"
    pairs = used["InstructBrushLoadPairs"]
    assert pairs["folder"] == "my_pairs" and pairs["size"][1] == 3  # the size of the model, by wire
    page.screenshot(path=shots / "first_own_edit.png")
