"""The in-process ComfyUI of these tests: values, errors, and how the pack is loaded."""

import torch


def test_values_pass_through_stock_nodes(comfy):
    graph = comfy.graph()
    image = torch.rand(1, 8, 8, 3)
    inverted = graph.node("ImageInvert", image=comfy.give(graph, image))
    (value,) = comfy.values(graph, inverted.out(0))
    assert torch.equal(value, 1 - image)


def test_errors_have_the_message_that_users_see(comfy):
    graph = comfy.graph()
    missing = graph.node("LoadImage", image="nothing-here.png")
    assert "nothing-here.png" in comfy.error(graph, missing.out(0))


def test_loads_the_pack_by_its_entry_point(comfy):
    ours = sorted(name for name in comfy.nodes if name.startswith("InstructBrush"))
    assert "InstructBrushApply" in ours, ours
    assert comfy.pack().__file__ == str(comfy.base / "custom_nodes" / "instructbrush" / "__init__.py")
    assert comfy.nodes["InstructBrushApply"].RELATIVE_PYTHON_MODULE == "custom_nodes.instructbrush"
