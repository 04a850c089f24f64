"""The pairs board in Load Edit Pairs, in both renderers: drops, decisions, undo, masks, and problems."""

import base64
import json
import time
from io import BytesIO

import pytest
from PIL import Image
from playwright.sync_api import expect

from instructbrush.tests.support import seeded

BUILD = """(folder) => {
    app.graph.clear();
    const node = LiteGraph.createNode("InstructBrushLoadPairs");
    node.pos = [60, 60];
    app.graph.add(node);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60, 60];
    if (folder) {
        const widget = node.widgets.find((each) => each.name === "folder");
        widget.value = folder;
        widget.callback(folder);
    }
    node.setSize([460, Math.max(node.size[1], 640)]);
    app.canvas.setDirty(true, true);
}"""
DROP = """([place, files]) => {
    const transfer = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
    }
    const target = document.querySelector(place);
    for (const type of ["dragover", "drop"]) {
        const given = { bubbles: true, cancelable: true, dataTransfer: transfer };
        target.dispatchEvent(new DragEvent(type, given));
    }
}"""
PASTE = """(files) => {
    const transfer = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type: "image/png" }));
    }
    const given = { bubbles: true, cancelable: true, clipboardData: transfer };
    document.querySelector(".ib-pairs").dispatchEvent(new ClipboardEvent("paste", given));
}"""
VALUE = "(name) => app.graph.nodes[0].widgets.find((widget) => widget.name === name).value"
BOTH = pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])


@pytest.fixture(scope="module")
def page_of_boards(held_page):
    """One page for tests that make a board of their own."""
    with held_page() as opened:
        yield opened


def picture(shade, size=(64, 48), kind="JPEG"):
    """The bytes of an image as base64."""
    image = Image.linear_gradient("L").resize(size)
    file = BytesIO()
    Image.merge("RGB", [image, image.point(lambda level: (level + shade) % 256), image]).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def wait_for_content(page, path, picture):
    """Waits until a file holds a picture. It may be missing in between."""
    wanted = base64.b64decode(picture)
    deadline = time.monotonic() + 20
    while not path.is_file() or path.read_bytes() != wanted:
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def put(server, folder, **sizes):
    for name, size in sizes.items():
        path = server.base / "input" / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(picture(40, size, "PNG")))


def value(page, name):
    return page.evaluate(VALUE, name)


def board(page):
    return json.loads(value(page, "board") or "{}")


def names(page):
    return page.locator(".ib-pair-name").all_text_contents()


def wait_for(page, text):
    page.wait_for_function(
        "(text) => document.querySelector('.ib-pairs .ib-words').textContent.startsWith(text)",
        arg=text,
        timeout=30_000,
    )


def press(page, name, what):
    page.locator(f".ib-pair[data-key='{name}'] [data-act='{what}']").click()


def drop(page, files, place=".ib-pairs"):
    page.evaluate(DROP, [place, files])


@BOTH
def test_eight_dropped_photos_become_four_pairs(vue, server, open_page, shots):
    page = open_page(vue=vue)
    page.evaluate(BUILD, "")
    page.wait_for_selector(".ib-pair")
    mode = "vue" if vue else "classic"
    page.screenshot(path=shots / f"pairs_fresh_{mode}.png")
    assert page.locator(".ib-pairs-target").input_value().startswith("my_pairs")
    page.locator(".ib-pairs-target").fill(f"photos_{mode}")
    files = [
        (f"trip {number}-{side}.jpg", picture(60 * (side == "b"))) for number in range(1, 5) for side in "ab"
    ]
    drop(page, files)
    page.wait_for_function("() => document.querySelectorAll('.ib-pair').length === 4")
    wait_for(page, "4 pairs")
    assert value(page, "folder") == f"photos_{mode}"
    assert sorted(file.name for file in (server.base / "input" / f"photos_{mode}").iterdir()) == sorted(
        name for name, _ in files
    )
    page.wait_for_function(
        """() => [...document.querySelectorAll('.ib-pair-images figure img')]
            .every((image) => image.complete && image.naturalWidth === 64)"""
    )
    page.screenshot(path=shots / f"pairs_dropped_{mode}.png")


@BOTH
def test_decisions_reach_the_node_and_undo(vue, server, open_page, shots):
    mode = "vue" if vue else "classic"
    folder = f"decide_{mode}"
    put(server, folder, **{f"{number}_{side}": (64, 48) for number in range(4) for side in (0, 1)})
    page = open_page(vue=vue)
    page.evaluate(BUILD, folder)
    wait_for(page, "4 pairs")
    assert page.locator(".ib-pairs-target").input_value() == folder
    press(page, "1", "skip")
    press(page, "2", "star")
    press(page, "3", "swap")
    assert board(page) == {"skip": ["1"], "swap": ["3"], "held_out": "2"}
    wait_for(page, "4 pairs · 3 used · held out: 2")
    # By keys: the focus stays on the pair that moves.
    page.locator(".ib-pair[data-key='3'] [data-act='move']").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert names(page) == ["0", "3", "1", "2"] and board(page)["order"] == ["0", "3", "1", "2"]
    # By mouse.
    handle = page.locator(".ib-pair[data-key='2'] [data-act='move']").bounding_box()
    page.mouse.move(handle["x"] + 5, handle["y"] + 5)
    page.mouse.down()
    page.wait_for_selector(".ib-pair.ib-dragged")
    page.locator(".ib-pair[data-key='0']").hover(force=True, position={"x": 60, "y": 40})
    page.wait_for_selector(".ib-pair.ib-target[data-key='0']")
    page.mouse.up()
    assert names(page) == ["2", "0", "3", "1"]
    page.screenshot(path=shots / f"pairs_decided_{mode}.png")
    # The workflow and the prompt carry the decisions, and the node follows them.
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    (node,) = prompt.values()
    assert json.loads(node["inputs"]["board"])["order"] == ["2", "0", "3", "1"]
    result = server.run({"1": node, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 1]}}})
    assert len(result.images("2")) == 3
    # ComfyUI's undo takes the decisions back one by one.
    page.mouse.click(1200, 500)
    page.keyboard.press("Control+z")
    shown = "() => [...document.querySelectorAll('.ib-pair-name')].map((each) => each.textContent).join()"
    page.wait_for_function(f"{shown} === '0,3,1,2'")
    for _ in range(5):
        page.keyboard.press("Control+z")
        page.wait_for_timeout(150)
    page.wait_for_function("() => !app.graph.nodes[0].widgets.find((each) => each.name === 'board').value")
    wait_for(page, "4 pairs")
    assert names(page) == ["0", "1", "2", "3"] and value(page, "folder") == folder


@BOTH
def test_masks_partners_and_problems(vue, server, open_page, shots):
    mode = "vue" if vue else "classic"
    folder = f"faulty_{mode}"
    sizes = {"a_0": (64, 48), "a_1": (64, 48), "b_0": (64, 48), "b_1": (48, 64), "c_0": (64, 48)}
    put(server, folder, d_0=(64, 48), d_1=(128, 96), **sizes)
    where = server.base / "input" / folder
    (where / "e_0.png").write_bytes(b"no image")
    (where / "e_1.png").write_bytes(base64.b64decode(picture(9, kind="PNG"))[:60])
    page = open_page(vue=vue)
    page.evaluate(BUILD, folder)
    wait_for(page, "4 pairs · 3 used")
    tiles = page.locator(".ib-pair")
    problem = tiles.locator(".ib-pair-problem")
    assert problem.nth(0).text_content() == ""
    assert problem.nth(1).text_content().startswith("Pair 'b': before is 64 x 48, after is 48 x 64")
    assert problem.nth(2).text_content() == "" and "ib-amber" in page.locator(
        ".ib-pair[data-key='d'] .ib-pair-size"
    ).get_attribute("class")
    assert problem.nth(3).text_content().startswith("Image 'e_0.png' cannot be read")
    assert problem.nth(4).text_content().startswith("Image 'c_0.png' has no partner")
    page.screenshot(path=shots / f"pairs_faulty_{mode}.png")
    # A dropped file becomes the missing partner, or the mask of the pair that it is dropped on.
    drop(page, [("IMG_77.jpg", picture(3))], ".ib-pair[data-key=''] img")
    wait_for(page, "5 pairs · 4 used")
    assert (where / "c_1.jpg").is_file()
    half = Image.new("L", (64, 48))
    half.paste(255, (0, 0, 32, 48))
    file = BytesIO()
    half.save(file, "PNG")
    mask = base64.b64encode(file.getvalue()).decode()
    drop(page, [("painted.png", mask)], ".ib-pair[data-key='a'] img")
    page.wait_for_selector(".ib-pair[data-key='a'] .ib-pair-mask")
    assert (where / "a_mask.png").read_bytes() == file.getvalue()
    # Another mask takes its place; the old one goes to the trash.
    trash = server.base / "output" / "instructbrush_trash" / "pairs" / folder
    again = base64.b64decode(picture(0, kind="PNG"))
    with page.expect_response(lambda response: "/instructbrush/pairs?" in response.url):
        drop(page, [("again.png", picture(0, kind="PNG"))], ".ib-pair[data-key='a'] img")
    wait_for(page, "5 pairs")
    assert (where / "a_mask.png").read_bytes() == again
    assert (trash / "a_mask.png").read_bytes() == file.getvalue()
    # The folder may change meanwhile. A mask that is not in the trash is not replaced.
    (where / "a_mask.png").rename(where / "elsewhere.txt")
    drop(page, [("third.png", mask)], ".ib-pair[data-key='a'] img")
    expect(page.locator(".ib-pairs-says")).to_contain_text("the mask was not replaced")
    expect(page.locator(".ib-pair[data-key='a'] .ib-pair-mask")).to_have_count(0)
    assert not (where / "a_mask.png").exists()
    # And a mask that is new goes to the trash.
    (where / "a_mask.png").write_bytes(again)
    drop(page, [("third.png", mask)], ".ib-pair[data-key='a'] img")
    page.wait_for_selector(".ib-pair[data-key='a'] .ib-pair-mask")
    assert (where / "a_mask.png").read_bytes() == file.getvalue()
    assert (trash / "a_mask_2.png").read_bytes() == again
    # Of two at once, the second is used, and the first is in the trash, too.
    fourth, fifth = (picture(shade, kind="PNG") for shade in (40, 80))
    drop(page, [("fourth.png", fourth)], ".ib-pair[data-key='a'] img")
    drop(page, [("fifth.png", fifth)], ".ib-pair[data-key='a'] img")
    wait_for_content(page, where / "a_mask.png", fifth)
    assert (trash / "a_mask_4.png").read_bytes() == base64.b64decode(fourth)
    wait_for(page, "5 pairs")
    # A mask that is not uploaded says where the old one is.
    page.route("**/upload/image", lambda route: route.fulfill(status=413, body="too large"))
    drop(page, [("sixth.png", fourth)], ".ib-pair[data-key='a'] img")
    expect(page.locator(".ib-pairs-says")).to_contain_text("instructbrush_trash/pairs")
    page.unroute("**/upload/image")
    (trash / "a_mask_5.png").rename(where / "a_mask.png")
    drop(page, [("seventh.png", fourth)], ".ib-pair[data-key='a'] img")
    page.wait_for_selector(".ib-pair[data-key='a'] .ib-pair-mask")
    press(page, "a", "mask")
    assert board(page) == {"no_mask": ["a"]} and page.locator(".ib-pair-mask").count() == 0
    press(page, "a", "mask")
    assert board(page) == {} and page.locator(".ib-pair-mask").count() == 1
    # With fit, two aspect ratios are no problem.
    page.evaluate(
        "() => { const fit = app.graph.nodes[0].widgets.find((each) => each.name === 'fit');"
        " fit.value = 'crop'; fit.callback('crop'); }"
    )
    assert page.locator(".ib-pair[data-key='b'] .ib-pair-problem").text_content() == ""


def test_large_photos_and_a_light_theme(server, open_page, shots):
    sdxl = seeded.native_unet(seeded.unet_shapes(seeded.SDXL))
    checkpoint = server.base / "models" / "checkpoints" / "sdxl.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    seeded.write_hollow(checkpoint, {f"model.diffusion_model.{key}": shape for key, shape in sdxl.items()})
    put(server, "large", **{f"{number}_{side}": (2000, 1500) for number in (0, 1) for side in (0, 1)})
    server.post("/settings", {"Comfy.ColorPalette": "light"})
    try:
        page = open_page(vue=True)
        page.evaluate(BUILD, "large")
        wait_for(page, "2 pairs")
        advice = page.locator(".ib-pairs-advice")
        expect(advice).to_contain_text("The images are 2000 x 1500. Learn at 512 x 512?", timeout=30_000)
        assert page.locator(".ib-amber").count() == 2
        images = "[...document.querySelectorAll('.ib-pair img')]"
        page.wait_for_function(f"() => {images}.every((image) => image.naturalWidth === 256)")
        page.screenshot(path=shots / "pairs_light.png")
        advice.locator("button").click()
        assert value(page, "size") == 512 and advice.is_hidden() and page.locator(".ib-amber").count() == 0
        # With a model in the graph, its size is offered.
        page.evaluate(
            "() => { app.graph.add(LiteGraph.createNode('InstructBrushLoadModel'));"
            " const size = app.graph.nodes[0].widgets.find((each) => each.name === 'size');"
            " size.value = 0; size.callback(0); }"
        )
        expect(advice).to_contain_text("Learn at 128 x 128?", timeout=30_000)
        # The model that learns from the pairs comes first.
        page.evaluate(
            "() => { const [pairs] = app.graph.nodes;"
            " const [model, learn] = ['CheckpointLoaderSimple', 'InstructBrushLearn'].map((kind) => {"
            "     const node = LiteGraph.createNode(kind); app.graph.add(node); return node; });"
            " model.widgets[0].value = 'sdxl.safetensors';"
            " model.connect(0, learn, learn.findInputSlot('model'));"
            " pairs.connect(0, learn, learn.findInputSlot('pairs')); }"
        )
        page.mouse.click(1200, 900)
        expect(advice).to_contain_text("Learn at 1024 x 1024?", timeout=30_000)
        # The size of the model, by wire, needs no advice.
        page.evaluate(
            "() => { const [pairs, model] = app.graph.nodes;"
            " model.connect(model.findOutputSlot('size'), pairs, pairs.findInputSlot('size')); }"
        )
        page.wait_for_function("() => document.querySelector('.ib-pairs-advice').hidden")
        assert page.locator(".ib-amber").count() == 0
    finally:
        server.post("/settings", {"Comfy.ColorPalette": "dark"})
        checkpoint.unlink()


@pytest.mark.parametrize(
    "taken", [("1", "2"), ("0_0", "0_1"), ("before_0", "after_0"), ("x_before", "x_after"), ("y", "y_edited")]
)
def test_images_whose_names_are_taken_are_pairs_all_the_same(taken, server, page_of_boards):
    page, folder = page_of_boards, f"taken_{taken[0]}"
    put(server, folder, **dict.fromkeys(taken, (64, 48)))
    page.evaluate(BUILD, folder)
    wait_for(page, "1 pair")
    before, after = (picture(shade, kind="PNG") for shade in (10, 90))
    drop(page, [(f"{name}.png", content) for name, content in zip(taken, (before, after), strict=True)])
    wait_for(page, "2 pairs")
    survey = server.get(f"/instructbrush/pairs?folder={folder}")
    places = [(pair["before"]["file"], pair["after"]["file"]) for pair in survey["pairs"]]
    assert places.count((f"{taken[0]}.png", f"{taken[1]}.png")) == 1 and not survey["remarks"]
    ((first, second),) = [each for each in places if each[0] != f"{taken[0]}.png"]
    files = server.base / "input" / folder
    assert (files / first).read_bytes() == base64.b64decode(before)
    assert (files / second).read_bytes() == base64.b64decode(after)


def test_pasted_images_become_a_pair(server, open_page):
    page = open_page()
    page.evaluate(BUILD, "")
    page.wait_for_selector(".ib-pair")
    page.locator(".ib-pairs-target").fill("pasted")
    page.evaluate(PASTE, [["image.png", picture(0, kind="PNG")]])
    page.wait_for_function(
        "() => document.querySelector('.ib-pair-problem')?.textContent.includes('no partner')"
    )
    page.evaluate(PASTE, [["image.png", picture(90, kind="PNG")]])
    wait_for(page, "1 pair")
    assert len(list((server.base / "input" / "pasted").iterdir())) == 2 and value(page, "folder") == "pasted"
    # Among names that say before or after, two pastes are one more pair.
    put(server, "named", x_before=(64, 48), x_after=(64, 48))
    page.evaluate(BUILD, "named")
    wait_for(page, "1 pair")
    page.evaluate(PASTE, [["image.png", picture(0, kind="PNG")]])
    page.wait_for_function("() => document.querySelector('.ib-pair-problem:not(:empty)')")
    page.evaluate(PASTE, [["image.png", picture(90, kind="PNG")]])
    wait_for(page, "2 pairs")
    # Files that have names of their own keep them, whatever their order, and four images are two pairs.
    named = [("y_after.png", picture(90, kind="PNG")), ("y_before.png", picture(0, kind="PNG"))]
    page.evaluate(PASTE, named)
    wait_for(page, "3 pairs")
    page.evaluate(PASTE, [["image.png", picture(shade, kind="PNG")] for shade in (0, 90, 0, 90)])
    wait_for(page, "5 pairs")
    files = {path.name for path in (server.base / "input" / "named").iterdir()}
    assert {"y_after.png", "y_before.png"} < files and not any("(1)" in name for name in files)
    # What is no image is refused, and nothing is uploaded.
    drop(page, [("notes.txt", picture(0))])
    page.wait_for_function(
        "() => document.querySelector('.ib-pairs-says').textContent.includes('no image files')"
    )
    assert {path.name for path in (server.base / "input" / "named").iterdir()} == files
