"""The instruction gallery in the browser: dialog, sidebar, drag, trash, unfinished runs, and 300 files."""

import shutil

import pytest

from instructbrush.tests.e2e.drawn import drawn
from instructbrush.tests.e2e.panels.gallery_files import write_files

BUILD = """() => {
    app.graph.clear();
    const add = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node;
    };
    const model = add("InstructBrushLoadModel", -100, 80);
    const load = add("InstructBrushLoad", -100, 300);
    const apply = add("InstructBrushApply", 350, 80);
    const socket = (name) => apply.inputs.findIndex((input) => input.name === name);
    model.connect(0, apply, socket("model"));
    load.connect(0, apply, socket("instruction"));
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [500, 80];
    app.canvas.setDirty(true, true);
    return load.id;
}"""


@pytest.fixture
def files(server):
    """The folder output/instructions with the files of ``write_files``."""
    folder = server.base / "output" / "instructions"
    shutil.rmtree(folder, ignore_errors=True)
    write_files(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def page(held_page, vue):
    """One page for all tests of a renderer."""
    with held_page(vue=vue) as opened:
        yield opened


def card(page, name):
    return page.locator(f'.ibg-card[data-name="{name}.safetensors"]')


def names(page):
    found = page.locator(".ibg-card").evaluate_all("(cards) => cards.map((card) => card.dataset.name)")
    return [name.removesuffix(".safetensors") for name in found if "plum" not in name and "light" not in name]


def press_choose(page, node, vue):
    """Presses the button in the node, as its renderer draws it."""
    if vue:
        page.get_by_role("button", name="Choose…").click()
        return
    x, y = page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            const widget = node.widgets.find((widget) => widget.name === "choose");
            const { left, top } = app.canvas.canvas.getBoundingClientRect();
            const { scale, offset } = app.canvas.ds;
            return [
                left + (node.pos[0] + node.size[0] / 2 + offset[0]) * scale,
                top + (node.pos[1] + (widget.y ?? widget.last_y) + 10 + offset[1]) * scale,
            ];
        }""",
        node,
    )
    page.mouse.click(x, y)


def value(page, node):
    return page.evaluate(
        "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'name').value", node
    )


def test_an_instruction_is_chosen_in_the_dialog(vue, page, files, shots):
    kind = "vue" if vue else "classic"
    node = page.evaluate(BUILD)
    page.wait_for_timeout(300)
    press_choose(page, node, vue)
    page.wait_for_selector(".ibg-dialog .ibg-card")
    page.wait_for_function("() => document.querySelector('.ibg-misfit')")
    drawn(page)
    page.screenshot(path=shots / f"gallery_{kind}.png")
    # Only the families that the connected pocket model cannot use are grey, and say why.
    greyed = page.locator(".ibg-card:has(.ibg-misfit)").evaluate_all(
        "(all) => all.map((c) => c.dataset.name)"
    )
    assert sorted(greyed) == ["gold.safetensors", "ink.safetensors"]
    assert "the connected model is pocket editor" in card(page, "gold").locator(".ibg-badge").get_attribute(
        "title"
    )
    assert "cut short" in card(page, "cut").locator(".ibg-error").text_content()
    assert card(page, "cut").get_by_text("Use").count() == 0

    # Search, family, order.
    page.keyboard.type("rain night")
    assert names(page) == ["weather/rain"]
    page.locator(".ibg-search").fill("")
    page.get_by_label("Family").select_option("sdxl")
    assert names(page) == ["ink"]
    page.get_by_label("Family").select_option("")
    page.get_by_label("Order").select_option("name")
    assert names(page) == ["cut", "gold", "ink", "snow", "weather/rain"]

    # Swiping moves the border to the pointer.
    box = card(page, "snow").locator(".ibg-swipe").bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20)
    at = (
        card(page, "snow")
        .locator(".ibg-swipe")
        .evaluate("(e) => parseFloat(e.style.getPropertyValue('--at'))")
    )
    assert 23 < at < 27
    card(page, "snow").get_by_role("button", name="Details").click()
    page.screenshot(path=shots / f"gallery_details_{kind}.png")
    assert "4 pairs" in card(page, "snow").locator("dl").text_content()

    # Escape closes without a change; a card chooses.
    page.keyboard.press("Escape")
    assert page.locator(".ibg-dialog").count() == 0
    press_choose(page, node, vue)
    card(page, "snow").get_by_role("button", name="Use snow").click()
    assert page.locator(".ibg-dialog").count() == 0 and value(page, node) == "snow.safetensors"
    page.wait_for_function("() => document.querySelector('.ibg-chosen img')?.naturalWidth === 256")
    assert "from 'a snowy day'" in page.locator(".ibg-chosen-panel").text_content()
    drawn(page)
    page.screenshot(path=shots / f"gallery_chosen_{kind}.png")
    if vue:  # the node's own list shows the image as well
        page.locator(f'[data-node-id="{node}"] [role=combobox]').first.click()
        page.locator("[role=option]", has_text="gold").click()
        page.locator(".ibg-chosen-panel", has_text="sd15: from 'made of gold'").wait_for()
        page.evaluate(SET, [node, "snow.safetensors"])
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt[str(node)]["inputs"] == {"name": "snow.safetensors"}
    saved = page.evaluate("(id) => app.graph.getNodeById(id).serialize().widgets_values", node)
    assert saved == ["snow.safetensors"]


STORE_FAVORITES = """async (names) => fetch("/api/userdata/instructbrush%2Ffavorites.json?overwrite=true", {
    method: "POST", body: JSON.stringify(names),
})"""

PRESS_STARS = """(names) => {
    for (const name of names) document.querySelector(`.ibg-sidebar [data-name="${name}"] .ibg-star`).click();
}"""


def kept_favorites(page, names):
    """Waits until the user's data holds `names` as favorites."""
    page.wait_for_function(
        """async (names) => {
            const kept = await fetch("/api/userdata/instructbrush%2Ffavorites.json");
            return kept.ok && JSON.stringify(await kept.json()) === JSON.stringify(names);
        }""",
        arg=names,
    )


def test_files_are_kept_in_order_in_the_sidebar(vue, page, files, server, shots):
    kind = "vue" if vue else "classic"
    node = page.evaluate(BUILD)
    page.evaluate(SET, [node, "ink.safetensors"])
    page.locator(".instructbrush-gallery-tab-button").click()
    page.wait_for_selector(".ibg-sidebar .ibg-card")

    # A favorite stays one in the user's data.
    card(page, "gold").get_by_role("button", name="favorites").click()
    assert card(page, "gold").get_by_role("button", name="favorites").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Only favorites").click()
    assert names(page) == ["gold"]
    page.get_by_role("button", name="Only favorites").click()
    kept_favorites(page, ["gold.safetensors"])

    # Stars that are pressed in one moment are all kept, and another tab's star stays.
    page.evaluate(STORE_FAVORITES, ["gold.safetensors", "weather/rain.safetensors"])
    page.evaluate(PRESS_STARS, ["gold.safetensors", "ink.safetensors", "snow.safetensors"])
    kept_favorites(page, ["ink.safetensors", "snow.safetensors", "weather/rain.safetensors"])

    # Another name, also in the node that uses the file; a taken name is refused.
    card(page, "ink").get_by_role("button", name="Rename").click()
    page.keyboard.type("gold")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelector('.ibg-toast').textContent.includes('exists already')"
    )
    page.locator(".ibg-name").fill("style/pen")
    page.keyboard.press("Enter")
    card(page, "style/pen").wait_for()
    assert (files / "style" / "pen.safetensors").exists() and not (files / "ink.safetensors").exists()
    assert value(page, node) == "style/pen.safetensors"
    kept_favorites(page, ["snow.safetensors", "style/pen.safetensors", "weather/rain.safetensors"])

    # Trash and undo.
    card(page, "snow").get_by_role("button", name="trash").click()
    card(page, "snow").wait_for(state="detached")
    assert (files / "trash" / "snow.safetensors").exists()
    page.screenshot(path=shots / f"gallery_sidebar_{kind}.png")
    page.keyboard.press("Enter")  # the keyboard is on Undo
    card(page, "snow").wait_for()
    assert (files / "snow.safetensors").exists()

    # A card that is dropped on the canvas becomes a node there.
    card(page, "snow").drag_to(
        page.locator("#graph-canvas"), target_position={"x": 900, "y": 620}, force=True
    )
    place = page.evaluate(
        """() => {
            const node = app.graph.nodes.at(-1);
            const { left, top } = app.canvas.canvas.getBoundingClientRect();
            const { scale, offset } = app.canvas.ds;
            return [node.comfyClass, node.widgets[0].value,
                    (node.pos[0] + offset[0]) * scale, (node.pos[1] + offset[1]) * scale];
        }"""
    )
    assert place[:2] == ["InstructBrushLoad", "snow.safetensors"]
    assert abs(place[2] - 900) < 5 and abs(place[3] - 620) < 5
    count = page.evaluate("() => app.graph.nodes.length")
    card(page, "weather/rain").get_by_role("button", name="Use").click()
    assert page.evaluate("() => app.graph.nodes.length") == count + 1
    page.wait_for_timeout(300)
    assert page.evaluate(COVERED) == []
    drawn(page)
    page.screenshot(path=shots / f"gallery_dropped_{kind}.png")

    # An unfinished run opens its workflow and keeps the graph that was open.
    run = page.locator(".ibg-run")
    assert run.get_by_role("button", name="Resume").text_content() == "Resume (57 / 300)"
    run.get_by_role("button", name="Resume").click()
    page.wait_for_function(
        "() => app.graph.nodes.length === 1 && app.graph.nodes[0].type === 'InstructBrushApply'"
    )
    drawn(page)
    page.screenshot(path=shots / f"gallery_resumed_{kind}.png")
    # Its name is fit for a file, whatever the words.
    opened = page.evaluate("() => app.extensionManager.workflow.activeWorkflow.path")
    assert opened.startswith("workflows/Resume autumn leaves in 'the' wood far away far") and len(opened) < 90
    run.get_by_role("button", name="trash").click()
    run.wait_for(state="detached")
    assert (files / "trash" / "unfinished" / "abc123.checkpoint").exists()
    page.evaluate("async () => fetch('/api/userdata/instructbrush%2Ffavorites.json', { method: 'DELETE' })")
    page.locator(".instructbrush-gallery-tab-button").click()


OPEN_GALLERY = """async () => {
    const began = performance.now();
    document.querySelector(".instructbrush-gallery-tab-button").click();
    while (document.querySelectorAll(".ibg-card").length < 20)
        await new Promise((done) => requestAnimationFrame(done));
    return performance.now() - began;
}"""


def test_opens_with_300_files_in_half_a_second(files, server, open_page, shots):
    content = (files / "snow.safetensors").read_bytes()
    for number in range(300):
        (files / f"many_{number}.safetensors").write_bytes(content)
    server.post("/settings", {"Comfy.ColorPalette": "light"})
    requests = []
    took = []
    # Other programs may slow one opening down: the best of five fresh pages counts.
    while len(took) < 5 and min(took, default=500) >= 500:
        page = open_page()
        page.evaluate("() => app.graph.clear()")
        requests.clear()
        page.on("request", lambda request: requests.append(request.url))
        took.append(page.evaluate(OPEN_GALLERY))
    server.post("/settings", {"Comfy.ColorPalette": "dark"})
    assert min(took) < 500, took
    drawn(page)
    page.screenshot(path=shots / "gallery_300_light.png")
    asked = [url for url in requests if "/instructbrush/gallery" in url]
    # One list, and images of visible cards only.
    assert len([url for url in asked if "thumbnail" not in url]) == 1
    assert 0 < len(set(asked)) < 60
    # The others follow when the list is scrolled, and nothing is asked for while it rests.
    page.evaluate("() => { const s = document.querySelector('.ibg-scroll'); s.scrollTop = s.scrollHeight; }")
    page.wait_for_function("() => document.querySelectorAll('.ibg-card').length > 100")
    for _ in range(30):
        requests.clear()
        page.wait_for_timeout(1000)
        if not any("instructbrush" in url for url in requests):
            return
    raise AssertionError(f"the gallery keeps on asking: {requests}")


SET = """([id, name]) => {
    const widget = app.graph.getNodeById(id).widgets[0];
    widget.value = name;
    widget.callback(name);
}"""
COVERED = """() => {
    const nodes = app.graph.nodes.map(({ pos, size }) => [...pos, ...size]);
    const [x, y, wide, tall] = nodes.at(-1);
    return nodes.slice(0, -1).filter(([left, top, width, height]) =>
        x < left + width && x + wide > left && y - 30 < top + height && y + tall > top - 30);
}"""
LEARN = """(seed) => {
    app.graph.clear();
    const add = (type, values) => {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        for (const [key, value] of Object.entries(values)) {
            node.widgets.find((widget) => widget.name === key).value = value;
        }
        return node;
    };
    const model = add("InstructBrushLoadModel", {});
    const pairs = add("InstructBrushLoadPairs", { folder: "hours_passed (example)", size: 128 });
    const learn = add("InstructBrushLearn", {
        preset: "custom", steps: 240, preview_every: 0, seed, segments: 2, tokens: 2, guidance: "default",
        init_text: "dusk",
    });
    const save = add("InstructBrushSave", { name: "resumed" });
    const socket = (node, name) => node.inputs.findIndex((input) => input.name === name);
    model.connect(0, learn, socket(learn, "model"));
    model.connect(1, learn, socket(learn, "clip"));
    model.connect(2, learn, socket(learn, "vae"));
    pairs.connect(0, learn, socket(learn, "pairs"));
    learn.connect(0, save, socket(save, "instruction"));
}"""


def test_a_stopped_run_is_resumed_from_the_gallery(server, open_page, files):
    page = open_page()
    page.evaluate(LEARN, 5)
    page.evaluate(
        """async () => {
            const { api } = await import("/scripts/api.js");
            window.steps = [];
            api.addEventListener("instructbrush.learn", ({ detail }) => window.steps.push(detail.step));
            app.queuePrompt(0);
        }"""
    )
    # The list is open, and shows the run as soon as it has stopped.
    page.locator(".instructbrush-gallery-tab-button").click()
    page.locator(".ibg-run").wait_for()
    page.wait_for_function("() => window.steps.some((step) => step >= 2)", timeout=120_000)
    server.post("/interrupt", {})
    page.locator(".ibg-run", has_text="dusk").wait_for(timeout=60_000)
    page.evaluate("() => app.graph.clear()")
    run = page.locator(".ibg-run", has_text="dusk")
    label = run.get_by_role("button", name="Resume").text_content()
    done = int(label.removeprefix("Resume (").removesuffix(" / 240)"))
    assert 2 <= done < 240
    run.get_by_role("button", name="Resume").click()
    page.wait_for_function("() => app.graph.nodes.length === 4")
    page.evaluate("() => { window.steps = []; app.queuePrompt(0); }")
    # The run goes on where it stopped. Save Instruction brings the list up to date without a click.
    card(page, "resumed").wait_for(timeout=300_000)
    steps = [step for step in page.evaluate("() => window.steps") if step]  # 0 while it reads the pairs
    assert (steps[0], steps[-1]) == (done, 240)
    assert page.locator(".ibg-run", has_text="dusk").count() == 0
