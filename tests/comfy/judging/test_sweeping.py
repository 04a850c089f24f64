"""Sweep Values and Contact Sheet on a real ComfyUI."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import (
    Parts,
    applied,
    conditioned,
    images_of,
    instruction,
    make_image,
    sampled,
)


def test_values_are_lists_with_labels(comfy):
    graph = comfy.graph()
    node = graph.node("InstructBrushSweepValues", values="1000:0:-400, 0.5", name=" T ")
    shown = [graph.node("PreviewAny", source=node.out(index)) for index in range(3)]
    run = comfy.run(graph)
    values, whole, labels = (run.outputs[each.id]["text"] for each in shown)
    assert [float(value) for value in values] == [1000, 600, 200, 0.5]
    assert list(whole) == ["1000", "600", "200", "0"]
    assert list(labels) == ["T = 1000", "T = 600", "T = 200", "T = 0.5"]


def test_sweep_of_t_draws_figure_3(comfy):
    learned = instruction(comfy)
    before = make_image(count=2)
    graph = comfy.graph()
    parts = Parts(graph)
    source = comfy.give(graph, before)
    positive, negative, latent = conditioned(graph, parts, source, "")
    values = graph.node("InstructBrushSweepValues", values="1000:0:-500", name="T")
    model, conditioning = applied(
        graph, comfy, parts.model, positive, learned, end_timestep=values.out(1), strength=1.0
    )
    samples = sampled(graph, model, conditioning, negative, latent)
    images = graph.node("VAEDecode", samples=samples, vae=parts.vae).out(0)
    sheet_node = graph.node(
        "InstructBrushContactSheet", images=images, labels=values.out(2), source=source, cell=64
    )
    run = comfy.run(graph, sheet_node.out(0))
    (sheet,) = run.values
    step = 64 + 6
    assert sheet.shape[2] == 4 * step + 6
    columns = [sheet[0, :, 6 + column * step :][:, :64] for column in range(4)]
    top = sheet.shape[1] - 2 * step
    for row in range(2):
        rows = [column[top + row * step :][:64] for column in columns]
        assert torch.allclose(rows[0], before[row], atol=1 / 254)
        # T = 1000 is the conditioning alone, T = 0 the whole edit.
        for column, end in ((1, 1000), (2, 500), (3, 0)):
            alone = comfy.graph()
            single = Parts(alone)
            plus, minus, empty = conditioned(alone, single, comfy.give(alone, before), "")
            edited_model, edited = applied(
                alone, comfy, single.model, plus, learned, end_timestep=end, strength=1.0
            )
            wanted = images_of(comfy, alone, single, sampled(alone, edited_model, edited, minus, empty))
            assert torch.allclose(rows[column], wanted[row], atol=1.5 / 255)
        assert all((rows[a] - rows[b]).abs().mean() > 0.01 for a, b in ((1, 2), (2, 3)))
    assert any("images" in (data["output"] or {}) for data in run.data("executed"))


def test_sheet_takes_a_batch_and_lines_of_labels(comfy):
    graph = comfy.graph()
    images = make_image(count=3)
    node = graph.node(
        "InstructBrushContactSheet", images=comfy.give(graph, images), labels="one\ntwo\n\nthree\n", cell=64
    )
    (sheet,) = comfy.values(graph, node.out(0))
    assert sheet.shape[2] == 3 * 70 + 6 and sheet.shape[1] < 2 * 64
    assert torch.allclose(sheet[0, -70:-6, 6:70], images[0], atol=1 / 254)
    without = graph.node("InstructBrushContactSheet", images=comfy.give(graph, images), cell=64)
    (sheet,) = comfy.values(graph, without.out(0))
    # Without labels a batch is a column.
    assert sheet.shape[2] == 70 + 6 and sheet.shape[1] > 3 * 64


@pytest.mark.parametrize(
    ("values", "message"),
    [("0, x", "'x' is not a number"), ("", "gives 0 values"), ("0:1", "'0:1' is no range")],
)
def test_rejects_invalid_values(comfy, values, message):
    graph = comfy.graph()
    node = graph.node("InstructBrushSweepValues", values=values, name="T")
    assert message in comfy.error(graph, node.out(0))


def test_rejects_labels_and_images_that_do_not_match(comfy):
    def refusal(images, **more):
        graph = comfy.graph()
        more = {name: comfy.give(graph, value) if name == "source" else value for name, value in more.items()}
        node = graph.node("InstructBrushContactSheet", images=comfy.give(graph, images), **more)
        return comfy.error(graph, node.out(0))

    assert "2 labels do not fit 1 columns" in refusal(make_image(count=3), labels="a\nb")
    assert "1 in 'input', 3 in ''" in refusal(make_image(count=3), source=make_image(count=1))
