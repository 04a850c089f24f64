"""The strength strip of Edit Guider and Apply Instruction: slider, Try 5, and the noise axis."""

import pytest

from instructbrush.tests.e2e.drawn import drawn, wait_until_idle

STRIP = ".ib-strength"
# What does not depend on how nodes are drawn.
ONLY_VUE = pytest.mark.parametrize("vue", [True], ids=["vue"], indirect=True)
BUILD = """() => {
    app.graph.clear();
    const made = {};
    const add = (name, type, x, y, values = {}, wires = {}) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        for (const [key, value] of Object.entries(values)) {
            const widget = node.widgets.find((each) => each.name === key);
            widget.value = value;
        }
        for (const [key, [source, slot]] of Object.entries(wires)) {
            made[source].connect(slot, node, node.inputs.findIndex((input) => input.name === key));
        }
        made[name] = node;
    };
    add("model", "InstructBrushLoadModel", -350, 0);
    add("photo", "LoadImage", -350, 180, { image: "example.png" });
    const small = { upscale_method: "area", megapixels: 0.02 };
    add("image", "ImageScaleToTotalPixels", -350, 560, small, { image: ["photo", 0] });
    add("learned", "InstructBrushLoad", -350, 720, { name: "light_from_the_right.safetensors" });
    // The front end remembers the values of an earlier node with the same id.
    const usual = { words: "", strength: 1, start_timestep: 1000, end_timestep: 0, segment_strengths: "" };
    add("guider", "InstructBrushEditGuider", 0, 0, usual, {
        model: ["model", 0], clip: ["model", 1], vae: ["model", 2], image: ["image", 0],
        instruction: ["learned", 0],
    });
    add("noise", "RandomNoise", 400, 0);
    made.noise.widgets[1].value = "randomize";
    add("sampler", "KSamplerSelect", 400, 150, { sampler_name: "euler_ancestral" });
    add("sigmas", "BasicScheduler", 400, 270, { scheduler: "normal", steps: 3 }, { model: ["model", 0] });
    add("samples", "SamplerCustomAdvanced", 400, 440, {}, {
        noise: ["noise", 0], guider: ["guider", 0], sampler: ["sampler", 0], sigmas: ["sigmas", 0],
        latent_image: ["guider", 1],
    });
    add("edited", "VAEDecode", 400, 630, {}, { samples: ["samples", 0], vae: ["model", 2] });
    add("saved", "SaveImage", 740, 0, {}, { images: ["edited", 0] });
    add("compared", "ImageCompare", 740, 390, {}, { image_a: ["image", 0], image_b: ["edited", 0] });
    Object.assign(window, { guider: made.guider, noise: made.noise, sigmas: made.sigmas, made });
    window.widgetOf = (node, name) => node.widgets.find((widget) => widget.name === name);
    app.canvas.ds.scale = 1.2;
    app.canvas.ds.offset = [100, 60];
    app.canvas.setDirty(true, true);
}"""


@pytest.fixture(scope="module")
def window(held_page, vue):
    """One page for all tests of a renderer."""
    with held_page(vue=vue) as opened:
        yield opened


@pytest.fixture
def page(window):
    """The page with an edit in three steps, and the strip in the middle of the window."""
    build(window)
    return window


def build(page):
    page.evaluate("() => { app.canvas.setGraph(app.rootGraph); app.graph.clear(); }")
    page.wait_for_function("() => !document.querySelector('.ib-strength')")
    page.evaluate(BUILD)
    page.locator(f"{STRIP} .ib-strength-range").wait_for(timeout=20_000)


def value(page, name):
    return page.evaluate("(name) => widgetOf(guider, name).value", name)


def set_value(page, name, given):
    change = "([name, given]) => Object.assign(widgetOf(guider, name), { value: given }).callback(given)"
    page.evaluate(change, [name, given])


def drag(page, locator, place, to=None):
    """Drags from the middle of an element (or to a place in it) to a share of another one."""
    box, target = locator.bounding_box(), (to or locator).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    x, y = target["x"] + place[0] * target["width"], target["y"] + place[1] * target["height"]
    page.mouse.move(x, y, steps=4)
    page.mouse.up()


def history(server):
    return server.get("/history")


def test_slider_and_noise_axis_set_the_inputs(vue, page, shots):
    check_slider(page, shots / f"strength_{'vue' if vue else 'classic'}.png")
    check_axis(page, shots / f"noise_axis_{'vue' if vue else 'classic'}.png")


def check_slider(page, shot):
    """The slider and the widget follow each other."""
    slider = page.locator(f"{STRIP} .ib-strength-range")
    drawn(page)
    page.screenshot(path=shot)
    box = slider.bounding_box()
    # -1 .. 2: half of the way is 0.5. The thumb is 18 px wide, at a zoom of 1.2.
    drag(page, slider, (0.5, 0.5))
    assert value(page, "strength") == pytest.approx(0.5, abs=0.1)
    slider.press("ArrowRight")
    slider.press("Home")
    assert value(page, "strength") == -1
    assert box["width"] > 100
    set_value(page, "strength", 3)
    assert slider.input_value() == "3" and slider.get_attribute("max") == "3"
    assert page.locator(f"{STRIP} .ib-strength-value").text_content() == "3"
    # Nothing of the strip is saved or sent.
    saved = page.evaluate("() => app.graph.serialize()")
    (node,) = [each for each in saved["nodes"] if each["type"] == "InstructBrushEditGuider"]
    assert node["widgets_values"] == ["", -1, -1, 3, 1000, 0, ""]
    sent = page.evaluate("async () => (await app.graphToPrompt()).output[guider.id].inputs")
    assert "strength_strip" not in sent


def check_axis(page, shot):
    """Handles and bars set the range and the segment strengths."""
    page.wait_for_function("() => document.querySelectorAll('.ib-noise-bar').length === 5", timeout=20_000)
    axis = page.locator(f"{STRIP} .ib-noise-axis")
    start, end = page.locator(f"{STRIP} .ib-noise-start"), page.locator(f"{STRIP} .ib-noise-end")
    drag(page, end, (0.7, 0.5), axis)
    assert value(page, "end_timestep") == 300
    drag(page, start, (0.205, 0.5), axis)
    assert value(page, "start_timestep") == 800  # the border of a segment
    assert page.locator(f"{STRIP} .ib-noise-words").text_content() == "acts from 800 to 300"
    start.press("ArrowRight")
    end.press("Shift+ArrowLeft")
    assert (value(page, "start_timestep"), value(page, "end_timestep")) == (790, 400)
    # The end stays below the start.
    end.press("Home")
    assert value(page, "end_timestep") == 780
    start.press("Home")
    end.press("End")
    # The second bar from the left: timesteps 600 to 800.
    bar = page.locator(f"{STRIP} .ib-noise-bar").nth(1)
    drag(page, bar, (0.5, 0.5), bar)
    assert value(page, "segment_strengths") == "1, 1, 1, 0.5, 1"
    page.locator(f"{STRIP} .ib-noise-bar").nth(4).press("End")
    assert value(page, "segment_strengths") == "0, 1, 1, 0.5, 1"
    drag(page, end, (0.85, 0.5), axis)
    page.mouse.move(5, 5)
    page.screenshot(path=shot)
    for place, key in ((1, "Home"), (4, "ArrowUp")):
        page.locator(f"{STRIP} .ib-noise-bar").nth(place).press(key)
    assert value(page, "segment_strengths") == "0.05, 1, 1, 1, 1"
    page.locator(f"{STRIP} .ib-noise-bar").nth(4).press("Home")
    assert value(page, "segment_strengths") == ""
    # A list that a run would refuse does not look like one that acts.
    set_value(page, "segment_strengths", "1, 0")
    page.get_by_text("Segment strengths do not fit: this instruction takes 5.").wait_for()
    assert page.locator(f"{STRIP} .ib-misfit").count() == 1
    set_value(page, "segment_strengths", "")
    assert page.locator(f"{STRIP} .ib-misfit").count() == 0


def wait_for_results(page, count=5, timeout=60_000):
    found = page.wait_for_function(
        """(count) => {
            const says = document.querySelector(".ib-strength-says").textContent;
            return says || document.querySelectorAll(".ib-strength .ib-try img").length >= count;
        }""",
        arg=count,
        timeout=timeout,
    )
    assert found.json_value() is True


def wait_until_ended(page):
    page.locator(STRIP).get_by_role("button", name="Try 5").wait_for(timeout=60_000)


def test_tries_five_strengths_and_takes_the_chosen_one(vue, page, server, shots):
    before = set(history(server))
    seed = page.evaluate("() => noise.widgets[0].value")
    # A second click before the first run counts once.
    page.evaluate("() => [1, 2].forEach(() => document.querySelector('.ib-try-five').click())")
    wait_for_results(page)
    wait_until_ended(page)
    drawn(page)
    page.screenshot(path=shots / f"tries_{'vue' if vue else 'classic'}.png")
    tiles = page.locator(f"{STRIP} .ib-try")
    assert tiles.all_text_contents() == ["0", "0.5", "1", "1.5", "2"]
    framed = f"{STRIP} .ib-try[aria-pressed=true]"
    assert page.locator(framed).all_text_contents() == ["1"]
    # The widgets are as before, also the seed that changes after each run.
    assert value(page, "strength") == 1
    assert seed == page.evaluate("() => noise.widgets[0].value")
    wait_until_idle(server)
    runs = [entry for key, entry in history(server).items() if key not in before]
    runs.sort(key=lambda entry: entry["prompt"][0])
    guider = str(page.evaluate("() => guider.id"))
    # The chosen strength comes last, so that later nodes show its image.
    assert [run["prompt"][2][guider]["inputs"]["strength"] for run in runs] == [0, 0.5, 1.5, 2, 1]
    shown = []
    for run in runs:
        sent, saved = run["prompt"][2], run["prompt"][3]["extra_pnginfo"]["workflow"]
        (node,) = [each for each in saved["nodes"] if str(each["id"]) == guider]
        assert node["widgets_values"][3] == sent[guider]["inputs"]["strength"]
        # One node shows the image, and Save Image does not run.
        (images,) = [each["b_images"] for each in run["outputs"].values() if "b_images" in each]
        assert not any("images" in each for each in run["outputs"].values())
        shown.append(images[0]["filename"])
    assert len(set(shown)) == 5
    page.locator(f"{STRIP} .ib-try").nth(3).click()
    assert value(page, "strength") == 1.5
    # Compare Images shows it large, without another run.
    assert page.evaluate("() => app.nodeOutputs[made.compared.id].b_images[0].filename") == shown[2]
    assert page.locator(framed).all_text_contents() == ["1.5"]
    page.locator(STRIP).get_by_role("button", name="Close the results").click()
    assert not page.locator(f"{STRIP} .ib-strength-below").is_visible()


@ONLY_VUE
def test_keeps_what_is_done_and_says_why_it_stopped(vue, page, server, shots):
    strip = page.locator(STRIP)
    page.evaluate("() => (widgetOf(sigmas, 'steps').value = 12)")
    strip.get_by_role("button", name="Try 5").click()
    wait_for_results(page, 1)
    strip.get_by_role("button", name="Cancel").click()
    wait_until_ended(page)
    found = page.locator(f"{STRIP} img").count()
    assert 1 <= found < 5
    assert page.locator(f"{STRIP} .ib-strength-says").text_content() == f"Stopped after {found} of 5."
    drawn(page)
    page.screenshot(path=shots / "tries_stopped.png")
    wait_until_idle(server)  # the cancelled run ends after its step
    # A fault ends the runs at the first one.
    set_value(page, "segment_strengths", "1, 0")
    before = set(history(server))
    strip.get_by_role("button", name="Try 5").click()
    page.wait_for_function(
        "() => document.querySelector('.ib-strength-says').textContent.startsWith('Segment strengths: 2 ')",
        timeout=60_000,
    )
    wait_until_ended(page)
    wait_until_idle(server)
    assert len(set(history(server)) - before) == 1 and value(page, "strength") == 1
    # Without an image after the node there is nothing to show.
    page.evaluate("() => [made.saved, made.compared].forEach((node) => app.graph.remove(node))")
    strip.get_by_role("button", name="Try 5").click()
    page.get_by_text("No image is shown after this node.").wait_for(timeout=30_000)
    check_links(page, strip, shots / "strength_linked.png")


def check_links(page, strip, shot):
    """The strip says where the strength comes from, and that it needs an instruction."""
    page.evaluate(
        """() => {
            const number = LiteGraph.createNode("PrimitiveFloat");
            app.graph.add(number);
            window.number = number;
            number.connect(0, guider, guider.inputs.findIndex((input) => input.name === "strength"));
        }"""
    )
    page.wait_for_function("() => document.querySelector('.ib-strength-range').disabled")
    assert page.locator(f"{STRIP} .ib-strength-value").text_content() == "–"
    assert page.locator(f"{STRIP} .ib-strength-range").is_disabled()
    assert strip.get_by_role("button", name="Try 5").is_disabled()
    drawn(page)
    page.screenshot(path=shot)
    page.evaluate("() => number.disconnectOutput(0)")
    page.wait_for_function("() => !document.querySelector('.ib-strength-range').disabled")
    page.evaluate("() => guider.disconnectInput(guider.inputs.findIndex((i) => i.name === 'instruction'))")
    page.get_by_text("Connect an instruction to set its strength here.").wait_for(timeout=30_000)
    assert not page.locator(f"{STRIP} .ib-strength-range").is_visible()


@ONLY_VUE
def test_a_deleted_node_runs_nothing_more(vue, page, server):
    wait_until_idle(server)
    before = set(history(server))
    page.evaluate(
        """() => {
            document.querySelector(".ib-try-five").click();
            app.graph.remove(guider);
        }"""
    )
    page.wait_for_timeout(300)
    queue = server.get("/queue")
    assert set(history(server)) == before and not queue["queue_running"] and not queue["queue_pending"]


@ONLY_VUE
def test_works_inside_a_subgraph_with_the_strength_outside(vue, page, server, shots):
    page.evaluate(
        """() => {
            app.graph.remove(made.compared);
            const { node, subgraph } = app.graph.convertToSubgraph(new Set([guider]));
            window.host = node;
            window.guider = subgraph.nodes.find((each) => each.comfyClass === "InstructBrushEditGuider");
            const strength = guider.inputs.find((input) => input.name === "strength");
            subgraph.addInput("how much", "FLOAT").connect(strength, guider);
            app.canvas.openSubgraph?.(subgraph, host);
            app.canvas.ds.scale = 1.2;
            app.canvas.ds.offset = [-250, 60];
            app.canvas.setDirty(true, true);
        }"""
    )
    slider = page.locator(f"{STRIP} .ib-strength-range")
    slider.wait_for(timeout=20_000)
    drawn(page)
    page.screenshot(path=shots / "strength_in_subgraph.png")
    sent = """async () => {
        const { output } = await app.graphToPrompt();
        return output[`${host.id}:${guider.id}`].inputs.strength;
    }"""
    slider.press("Home")
    assert page.evaluate(sent) == -1
    before = set(history(server))
    page.locator(STRIP).get_by_role("button", name="Try 5").click()
    wait_for_results(page)
    wait_until_ended(page)
    assert page.evaluate(sent) == -1
    wait_until_idle(server)
    runs = [entry for key, entry in history(server).items() if key not in before]
    outer = page.evaluate("() => [String(host.id), host.widgets.findIndex((w) => w.name === 'how much')]")
    for run in runs:
        (inner,) = [each for each in run["prompt"][2].values() if each["class_type"].endswith("EditGuider")]
        saved = run["prompt"][3]["extra_pnginfo"]["workflow"]
        (node,) = [each for each in saved["nodes"] if str(each["id"]) == outer[0]]
        assert node["widgets_values"][outer[1]] == inner["inputs"]["strength"]
        # Save Image shows what is only tried, and saves no file.
        (images,) = [each["images"] for each in run["outputs"].values() if "images" in each]
        assert [image["type"] for image in images] == ["temp"]
    assert len(runs) == 5
    check_dialog(page, sent, shots / "strength_dialog.png")


def check_dialog(page, sent, shot):
    """The subgraph's node has the strip in a dialog."""
    page.evaluate("() => { app.canvas.setGraph(app.graph); host.title = 'My edit'; }")
    page.get_by_text("My edit").first.click()
    page.locator("button:has(.pi-sliders-h)").click(timeout=30_000)
    slider = page.locator(".ib-strength-dialog .ib-strength-range")
    slider.wait_for(timeout=30_000)
    assert slider.input_value() == "-1"
    slider.press("End")
    assert page.evaluate(sent) == 2
    dialog = page.get_by_role("dialog", name="Strength of the instruction")
    dialog.get_by_role("button", name="Try 5").click()
    # Two of the five are enough here.
    page.wait_for_function("() => document.querySelectorAll('.ib-strength-dialog img').length >= 2")
    dialog.get_by_role("button", name="Cancel").click()
    dialog.get_by_role("button", name="Try 5").wait_for()
    drawn(page)
    page.screenshot(path=shot)
    dialog.locator(".ib-try").nth(1).click()
    assert page.evaluate(sent) == 0.5
    page.keyboard.press("Escape")
    page.locator(".ib-strength-dialog").wait_for(state="detached")
    menu = page.evaluate("() => app.collectNodeMenuItems(host).map((item) => item?.content)")
    assert "Strength: slider and Try 5" in menu
    # The dialog does not outlive its node.
    page.evaluate(
        """() => {
            const items = app.collectNodeMenuItems(host);
            items.find((item) => item?.content?.startsWith("Strength:")).callback();
        }"""
    )
    dialog.wait_for()
    page.evaluate("() => app.graph.remove(host)")
    page.locator(".ib-strength-dialog").wait_for(state="detached", timeout=30_000)


def test_speaks_chinese_and_follows_a_light_theme(open_page, shots):
    page = open_page(vue=True, language="zh")
    build(page)
    page.evaluate(
        """async () => {
            await app.extensionManager.setting.set("Comfy.ColorPalette", "light");
            const apply = LiteGraph.createNode("InstructBrushApply");
            apply.pos = [400, 0];
            for (const name of ["noise", "sampler", "sigmas"]) made[name].pos = [1200, 0];
            app.graph.add(apply);
            made.learned.connect(0, apply, apply.inputs.findIndex((input) => input.name === "instruction"));
        }"""
    )
    try:
        page.locator(".ib-noise-bar").nth(9).wait_for(timeout=20_000)
        drawn(page)
        page.screenshot(path=shots / "strength_zh_light.png")
        assert page.locator(f"{STRIP} .ib-try-five").all_text_contents() == ["试 5 种"] * 2
        assert page.locator(f"{STRIP} .ib-noise-words").all_text_contents() == ["全程作用"] * 2
    finally:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
