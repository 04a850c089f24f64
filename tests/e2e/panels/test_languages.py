"""Panels, reports, errors and help pages in Chinese."""

import pytest
from PIL import Image

from instructbrush.core.instruction.file import save_instruction
from instructbrush.tests.e2e.panels.gallery_files import image_of, learned

CHINESE = r"[\u4e00-\u9fff]"
BUILD = """() => {
    app.graph.clear();
    const add = (type, x, height) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, 40];
        app.graph.add(node);
        node.setSize([Math.max(node.size[0], 400), Math.max(node.size[1], height)]);
        return node;
    };
    const pairs = add("InstructBrushLoadPairs", 0, 560);
    const folder = pairs.widgets.find((widget) => widget.name === "folder");
    folder.value = "chinese_pairs";
    folder.callback("chinese_pairs");
    const learn = add("InstructBrushLearn", 440, 800);
    add("InstructBrushLoad", 900, 400);
    app.canvas.ds.scale = 0.8;
    app.canvas.ds.offset = [90, 200];
    app.canvas.setDirty(true, true);
    return learn.id;
}"""
MESSAGE = {
    "run": "1",
    "phase": "learning",
    "detail": "",
    "actions": ["use", "later"],
    "pairs": 4,
    "step": 57,
    "total": 300,
    "seconds_left": 95,
    "losses": [0.3, 0.2, 0.1],
    "first": 0,
    "state": "Guidance scales: text 2, image 1.5. Not a sentence of the pack.",
    "held_out": [[20, 0.3], [40, 0.2]],
    "advice": {
        "text": "These images are 1024 x 768 pixels. The pocket model was made for 128 x 128: larger images "
        "are slower (48 times as many pixels) and turn out worse.",
        "size": 128,
    },
}


@pytest.fixture
def files(server):
    """Pairs with an image without its partner, and an instruction."""
    folder = server.base / "input" / "chinese_pairs"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("snow_before", "snow_after", "mask_before", "mask_after", "alone_before"):
        Image.linear_gradient("L").resize((64, 48)).save(folder / f"{name}.png")
    place = server.base / "output" / "instructions" / "chinese.safetensors"
    save_instruction(learned("a snowy day"), place, thumbnail=image_of("white"))
    yield
    place.unlink()


def texts(page, places):
    return page.locator(places).all_text_contents()


def test_no_line_of_the_server_takes_long_to_translate(open_page):
    said = "pocket: from 'a', 3 pairs, 4 steps, 5 segments x 6 rows"
    lines = [f"{'pocket: from ' * 20}'{', 3 pairs, 4 steps, 5 segments x 6 rows' * 17}~", "A b. " * 190]
    lines += ["Ab c. " * 20_000]
    result = open_page(language="zh").evaluate(
        """async (lines) => {
            const { translateSentence } = await import("/extensions/instructbrush/js/translate.js");
            const began = performance.now();
            const translated = lines.map(translateSentence);
            return [translated, performance.now() - began];
        }""",
        [said, *lines],
    )
    (known, *others), milliseconds = result
    assert "3 对" in known and others == lines and milliseconds < 2000


def test_panels_and_help_pages_are_chinese(server, open_page, files, shots):
    page = open_page(language="zh")
    learn = page.evaluate(BUILD)
    page.wait_for_selector(".ib-pair-problem:not(:empty)", timeout=30_000)
    board = page.locator(".ib-pairs")
    assert board.locator(".ib-words").text_content() == "2 对"
    assert texts(page, ".ib-pairs figcaption")[:2] == ["编辑前", "编辑后"]
    # Names of files are data, also if a panel has the same word.
    assert texts(page, ".ib-pair-name") == ["mask", "snow", "alone_before"]
    (problem,) = (text for text in texts(page, ".ib-pair-problem") if text)
    assert problem.startswith("图像“alone_before.png”没有配对")
    button = board.get_by_role("button", name="略过图像对 mask")
    assert button.get_attribute("title") == button.get_attribute("aria-label")

    sockets = (
        """(id) => app.graph.getNodeById(id).inputs.map((input) => input.label ?? input.localized_name)"""
    )
    assert page.evaluate(sockets, learn)[:4] == ["模型", "CLIP", "VAE", "图像对"]
    saved = page.evaluate("() => app.graph.serialize()")
    for input in next(node for node in saved["nodes"] if node["type"] == "InstructBrushLearn")["inputs"]:
        if input["name"] == "model":
            input["label"] = "model"
        if input["name"] == "pairs":
            input["label"] = "my own label"
    page.evaluate("(saved) => app.loadGraphData(saved)", saved)
    assert page.evaluate(sockets, learn)[:4] == ["模型", "CLIP", "VAE", "my own label"]
    page.wait_for_selector(".ib-pair-problem:not(:empty)", timeout=30_000)

    assert texts(page, ".ib-learning .ib-words") == ["尚未运行"]
    page.evaluate(
        """async ([id, message]) => {
            const { showMessage } = await import("/extensions/instructbrush/js/learning/live.js");
            showMessage({ ...message, node: String(id) });
        }""",
        [learn, MESSAGE],
    )
    panel = page.locator(".ib-learning")
    assert panel.locator(".ib-words").text_content().startswith("57 / 300 · 剩余 1:35 · 损失 ")
    # An unknown sentence stays as it is.
    assert "文本 2" in panel.locator(".ib-message").text_content()
    assert panel.locator(".ib-message").text_content().endswith("Not a sentence of the pack.")
    assert "1024 x 768" in panel.locator(".ib-advice").text_content()
    assert [text for text in texts(page, ".ib-learning button") if text] == ["停止并使用", "暂停"]
    page.screenshot(path=shots / "chinese_panels.png")

    page.locator(".instructbrush-gallery-tab-button").click()
    page.wait_for_selector(".ibg-card", timeout=20_000)
    assert page.locator(".ibg-search").get_attribute("placeholder") == "搜索名称和文字"
    card = page.locator(".ibg-card[data-name^=chinese]")
    assert card.locator(".ibg-use").text_content() == "使用"
    card.get_by_role("button", name="chinese 的详细信息").click()
    facts = card.locator("dl").text_content()
    assert "2 个分段 x 2 行键和值" in facts and "'a snowy day'" in facts
    page.screenshot(path=shots / "chinese_gallery.png")
    assert "停止并使用" not in page.evaluate("() => JSON.stringify(app.graph.serialize())")

    page.locator(".instructbrush-gallery-tab-button").click()
    page.evaluate(
        """(id) => {
            app.canvas.selectNode(app.graph.getNodeById(id));
            app.canvas.setDirty(true, true);
        }""",
        learn,
    )
    page.get_by_test_id("info-button").click()
    page.wait_for_selector("h1:text-is('学习指令')", timeout=20_000)
    page.screenshot(path=shots / "chinese_help.png")
    assert page.locator("h2:text-is('输入')").is_visible()
