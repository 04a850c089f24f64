"""Nodes show the inputs that people need, in both renderers. Numbers that stand for automatic show "auto"."""

import json

import pytest

from instructbrush.tests.e2e.drawn import settled_height

ALWAYS = ["preset", "seed", "preview_every", "hold_out", "gradient_checkpointing", "resume", "guidance"]

VISIBLE = """(id) => {
    const node = app.graph.getNodeById(id);
    const inputs = Object.values(node.constructor.nodeData.input).flatMap((group) => Object.keys(group));
    return node.widgets.filter((w) => inputs.includes(w.name) && !w.hidden).map((w) => w.name);
}"""
ROWS = """(id) => [...document.querySelectorAll(`[data-node-id="${id}"] [data-testid=node-widget]`)].length"""


@pytest.fixture(scope="module")
def page(held_page, vue):
    """One page for all tests of a renderer."""
    with held_page(vue=vue) as opened:
        yield opened


BUILD = """() => {
    app.graph.clear();
    const make = (type, x) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, 0];
        app.graph.add(node);
        return node;
    };
    const model = make("InstructBrushLoadModel", -340);
    const learn = make("InstructBrushLearn", 0);
    for (const output of [0, 1, 2]) model.connect(output, learn, output);
    learn.widgets[0].value = "make it brighter";
    return [app.graph.serialize(), learn.id];
}"""


def build(page):
    """Returns a workflow with Learn Instruction, and that node's entry."""
    workflow, learn = page.evaluate(BUILD)
    return workflow, next(node for node in workflow["nodes"] if str(node["id"]) == str(learn))


def load(page, workflow):
    page.evaluate("async (workflow) => { await app.loadGraphData(workflow); }", workflow)


def look_at(page, node, height=700):
    """Moves a node into view."""
    page.evaluate(
        """([id, height]) => {
            const { pos } = app.graph.getNodeById(id);
            app.canvas.ds.scale = Math.min(1, height / 700);
            app.canvas.ds.offset = [420 - pos[0], 90 - pos[1]];
            app.canvas.setDirty(true, true);
        }""",
        [node, height],
    )
    settled_height(page, node)


def set_value(page, node, name, value):
    page.evaluate(
        """([id, name, value]) => {
            const node = app.graph.getNodeById(id);
            const widget = node.widgets.find((w) => w.name === name);
            widget.value = value;
            widget.callback?.(value, app.canvas, node);
        }""",
        [node, name, value],
    )


def value(page, node, name):
    return page.evaluate(
        "([id, name]) => app.graph.getNodeById(id).widgets.find((w) => w.name === name).value", [node, name]
    )


def wait_for_rows(page, node, count):
    """Waits until the Vue renderer shows `count` rows of inputs."""
    page.wait_for_function(f"([id, count]) => ({ROWS})(id) === count", arg=[node, count])


def line(page):
    return page.locator(".ib-summary").first


def wait_for_line(page, text):
    page.wait_for_function(
        f"() => document.querySelector('.ib-summary')?.textContent.startsWith({json.dumps(text)})",
        timeout=15_000,
    )


def learn(page, node):
    return page.evaluate(
        """async (id) => {
            const saved = app.graph.serialize().nodes.find((node) => node.id === id);
            return [saved.widgets_values, (await app.graphToPrompt()).output[id].inputs, saved.properties];
        }""",
        node,
    )


def test_learning_shows_words_and_a_line_and_opens(page, vue, shots):
    kind = "vue" if vue else "classic"
    workflow, saved = build(page)
    node, values = saved["id"], saved["widgets_values"][:21]
    # As it was saved before inputs could be hidden.
    saved["properties"] = {"Node name for S&R": "InstructBrushLearn"}
    saved["size"] = [330, 922]
    load(page, workflow)
    look_at(page, node)
    assert page.evaluate(VISIBLE, node) == ["init_text"]
    wait_for_line(page, "auto: pocket, 400 steps")
    small = settled_height(page, node)
    assert small < 700
    kept, prompt, _ = learn(page, node)
    assert kept[: len(values)] == values and prompt["steps"] == 400 and prompt["preset"] == "auto"
    page.screenshot(path=shots / f"fewer_{kind}.png")

    button = page.locator(".ib-more button").first
    button.press("Enter")
    assert page.evaluate(VISIBLE, node) == ["init_text", *ALWAYS, "save_every"]
    assert button.get_attribute("aria-expanded") == "true" and button.text_content() == "Show fewer"
    settled_height(page, node)
    page.screenshot(path=shots / f"fewer_open_{kind}.png")
    if vue:
        wait_for_rows(page, node, 11)
    set_value(page, node, "preset", "custom")
    assert len(page.evaluate(VISIBLE, node)) == 21
    settled_height(page, node)
    page.screenshot(path=shots / f"fewer_custom_{kind}.png")
    set_value(page, node, "tokens", 0)
    set_value(page, node, "seed", 7)
    button.click()
    assert page.evaluate(VISIBLE, node) == ["init_text"]
    assert abs(settled_height(page, node) - small) < 12
    if vue:
        wait_for_rows(page, node, 3)
    assert line(page).text_content() == "custom: 400 steps · learned rows auto · seed 7"
    set_value(page, node, "hold_out", 2)
    assert line(page).text_content() == "custom: 400 steps · learned rows auto · 2 more changed"
    assert "pair to hold out 2" in line(page).get_attribute("title")


def test_a_linked_input_stays_and_a_reload_remembers(page, vue):
    node = build(page)[1]["id"]
    page.evaluate(
        """(id) => {
            const learn = app.graph.getNodeById(id);
            const number = LiteGraph.createNode("PrimitiveInt");
            number.pos = [learn.pos[0] - 300, learn.pos[1] - 200];
            app.graph.add(number);
            number.connect(0, learn, learn.inputs.findIndex((input) => input.name === "seed"));
        }""",
        node,
    )
    page.wait_for_function(f"(id) => ({VISIBLE})(id).includes('seed')", arg=node)
    assert page.evaluate(VISIBLE, node) == ["init_text", "seed"]
    again = page.evaluate("() => app.graph.serialize()")
    load(page, again)
    assert page.evaluate(VISIBLE, node) == ["init_text", "seed"]
    assert isinstance(learn(page, node)[1]["seed"], list)
    page.evaluate(
        """(id) => {
            const learn = app.graph.getNodeById(id);
            learn.disconnectInput(learn.inputs.findIndex((input) => input.name === "seed"));
        }""",
        node,
    )
    page.wait_for_function(f"(id) => !({VISIBLE})(id).includes('seed')", arg=node)
    page.locator(".ib-more button").first.click()
    before = settled_height(page, node)
    load(page, page.evaluate("() => app.graph.serialize()"))
    assert len(page.evaluate(VISIBLE, node)) == 9
    assert abs(settled_height(page, node) - before) < 12
    assert learn(page, node)[2]["all inputs"] is True


def add(page, kind, at):
    """Adds a node and moves it into view. Returns its id."""
    node = page.evaluate(
        """([kind, at]) => {
            const node = LiteGraph.createNode(kind);
            node.pos = at;
            app.graph.add(node);
            return node.id;
        }""",
        [kind, at],
    )
    look_at(page, node)
    return node


def test_numbers_show_auto_and_take_it(page, vue, shots):
    page.evaluate("() => app.graph.clear()")
    node = add(page, "InstructBrushEditBySteps", [0, 0])
    page.wait_for_timeout(300)
    page.screenshot(path=shots / f"auto_{'vue' if vue else 'classic'}.png")

    def type_text(text):
        if vue:
            field = page.locator("[aria-label=text_scale] input")
            field.focus()
            field.fill(text)
            field.press("Enter")
            return
        x, y = page.evaluate(
            """(id) => {
                const node = app.graph.getNodeById(id);
                const widget = node.widgets.find((w) => w.name === "text_scale");
                const { left, top } = app.canvas.canvas.getBoundingClientRect();
                const { scale, offset } = app.canvas.ds;
                const place = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10];
                return [left + (place[0] + offset[0]) * scale, top + (place[1] + offset[1]) * scale];
            }""",
            node,
        )
        page.mouse.click(x, y)
        field = page.locator(".graphdialog input")
        if value(page, node, "text_scale") == -1:
            assert field.input_value() == "auto"
        field.fill(text)
        field.press("Enter")

    def shown():
        if not vue:
            return page.evaluate(
                "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'text_scale')"
                "._displayValue",
                node,
            )
        return page.evaluate(
            """() => {
                const field = document.querySelector("[aria-label=text_scale] input");
                field.blur();
                const word = getComputedStyle(field.parentElement, "::before").content;
                const covered = getComputedStyle(field).color.endsWith(", 0)");
                return covered ? JSON.parse(word) : field.value;
            }"""
        )

    assert shown() == "auto"
    for text, number, word in (("3", 3, "3.0"), ("auto", -1, "auto"), ("5", 5, "5.0"), ("", -1, "auto")):
        type_text(text)
        page.wait_for_timeout(100)
        assert value(page, node, "text_scale") == number
        assert shown() == word
    # Between automatic and the least scale there is nothing.
    set_value(page, node, "text_scale", -0.9)
    assert value(page, node, "text_scale") == 0
    set_value(page, node, "text_scale", -0.1)
    assert value(page, node, "text_scale") == -1


def test_inputs_without_effect_are_hidden(page, vue, shots):
    kind = "vue" if vue else "classic"
    page.evaluate("() => app.graph.clear()")
    blend = add(page, "InstructBrushBlend", [-700, 0])
    assert page.evaluate(VISIBLE, blend) == ["weight_1", "weight_2"]
    clean = add(page, "InstructBrushCleanRegion", [0, 250])
    assert page.evaluate(VISIBLE, clean) == ["shape", "grow", "feather"]
    finder = add(page, "InstructBrushLoadRegionFinder", [0, 0])
    assert page.evaluate(VISIBLE, finder) == ["finder_name"]
    assert line(page).text_content() == "7 more inputs at their defaults"
    set_value(page, clean, "threshold", 0.25)
    assert line(page).text_content() == "threshold 0.25"
    page.wait_for_timeout(300)
    page.screenshot(path=shots / f"without_effect_{kind}.png")
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert "sam_name" in prompt[str(finder)]["inputs"] and prompt[str(clean)]["inputs"]["threshold"] == 0.25
    names = page.evaluate("(id) => app.graph.getNodeById(id).widgets[0].options.values", finder)
    (other,) = [name for name in names if name.startswith("grounding_dino/")][:1]
    set_value(page, finder, "finder_name", other)
    assert page.evaluate(VISIBLE, finder) == ["finder_name", "sam_name"]
    made = add(page, "InstructBrushMakePairsFromEdit", [700, 0])
    for drop, acts in (("below least change", "least_change"), ("lowest share", "share"), ("nothing", None)):
        set_value(page, made, "drop", drop)
        shown = {"least_change", "share"} & set(page.evaluate(VISIBLE, made))
        assert shown == ({acts} if acts else set())
    if vue:
        wait_for_rows(page, finder, 2)


def test_the_line_tells_what_auto_stood_for_in_the_last_run(page):
    workflow, saved = build(page)
    node = saved["id"]
    load(page, workflow)
    look_at(page, node)
    wait_for_line(page, "auto: pocket, 400 steps")
    page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput(0)", node)
    # Without a model nobody knows.
    wait_for_line(page, "auto: what fits the model")
    page.evaluate(
        """(id) => {
            const result = { run: "r", phase: "done", step: 9, total: 9, pairs: 1, preset: "paper" };
            app.graph.getNodeById(id).onExecuted({ learning: [result] });
        }""",
        node,
    )
    wait_for_line(page, "auto: paper, 1000 steps")
    # "custom" begins with what "auto" stood for, and keeps what was changed since.
    set_value(page, node, "preset", "custom")
    paper = {"steps": 1000, "tokens": 0, "learning_rate": 0.001, "segment_mode": "separate"}
    rest = {"weighting": "none", "final_learning_rate": 0, "text_scale": -1}
    assert {name: value(page, node, name) for name in paper | rest} == paper | rest
    set_value(page, node, "steps", 800)
    set_value(page, node, "preset", "paper_guided")
    set_value(page, node, "preset", "custom")
    assert (value(page, node, "steps"), value(page, node, "objective")) == (800, "plain")


def test_custom_begins_anew_with_another_preset(page):
    workflow, saved = build(page)
    node = saved["id"]
    load(page, workflow)
    for preset, objective in (("paper", "plain"), ("paper_guided", "guided"), ("paper", "plain")):
        set_value(page, node, "preset", preset)
        set_value(page, node, "preset", "custom")
        assert value(page, node, "objective") == objective


def test_a_saved_custom_preset_keeps_its_values(page):
    workflow, saved = build(page)
    node = saved["id"]
    load(page, workflow)
    set_value(page, node, "preset", "paper_guided")
    set_value(page, node, "preset", "custom")
    guided = {"objective": "guided", "text_scale": 7.5, "final_learning_rate": 0.001}
    assert {name: value(page, node, name) for name in guided} == guided
    set_value(page, node, "steps", 5)
    load(page, page.evaluate("app.graph.serialize()"))
    assert {name: value(page, node, name) for name in guided} == guided
    assert value(page, node, "steps") == 5


def test_a_page_shows_the_inputs_that_it_names(open_page):
    page = open_page(vue=True, language="zh")
    workflow, saved = build(page)
    node = saved["id"]
    workflow["extra"] = {"linearMode": True, "linearData": {"inputs": [[node, "seed"]], "outputs": [node]}}
    load(page, workflow)
    page.get_by_text("种子", exact=True).locator("visible=true").first.wait_for(timeout=30_000)
    page.locator("[aria-label=seed] input").locator("visible=true").first.wait_for(timeout=10_000)
    assert page.evaluate(VISIBLE, node) == ["init_text", "seed"]
    text = page.evaluate(
        "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'more').element.textContent", node
    )
    assert text.endswith("更改…")
