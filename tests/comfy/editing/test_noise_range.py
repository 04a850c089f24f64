"""Edit Guider with a timestep range and segment strengths."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import (
    Parts,
    applied,
    conditioned,
    custom_sampled,
    edit_guider,
    instruction,
    make_image,
)

UNCHANGED = {"start_timestep": 1000, "end_timestep": 0, "segment_strengths": ""}


def edited(comfy, **changes):
    graph = comfy.graph()
    node = edit_guider(comfy, graph, Parts(graph), **changes)
    return custom_sampled(comfy, graph, node.out(0), node.out(1))


def edited_by_stock_guider(comfy, **changes):
    """The same edit with Apply Instruction and ComfyUI's own guider."""
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model, positive = applied(graph, comfy, parts.model, positive, instruction(comfy), **changes)
    guider = graph.node(
        "DualCFGGuider",
        model=model,
        cond1=positive,
        cond2=negative,
        negative=graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0),
        cfg_conds=3.0,
        cfg_cond2_negative=1.4,
        style="regular",
    )
    return custom_sampled(comfy, graph, guider.out(0), latent)


@pytest.mark.parametrize(
    "changes",
    [
        {"end_timestep": 600},
        {"start_timestep": 600, "strength": 1.5},
        {"segment_strengths": "1, 1, 1, 0.5, 0"},
        {"segment_strengths": "0.5"},
    ],
)
def test_parity_edit_guider_acts_as_apply_instruction(comfy, changes):
    ours = edited(comfy, instruction=instruction(comfy), **changes)
    assert torch.equal(ours, edited_by_stock_guider(comfy, **changes))
    assert not torch.allclose(ours, edited(comfy, instruction=instruction(comfy)), atol=1e-3)


def test_parity_defaults_and_equal_segments_change_nothing(comfy):
    """Also at strength 0 and with an empty range, where only the words act."""
    learned = instruction(comfy)
    plain = edited(comfy, instruction=learned)
    assert torch.equal(edited(comfy, instruction=learned, **UNCHANGED), plain)
    assert torch.equal(edited(comfy, instruction=learned, segment_strengths="1, 1, 1, 1, 1"), plain)
    words = edited(comfy)
    for changes in ({"strength": 0.0}, {"end_timestep": 1000}, {"segment_strengths": "0"}):
        assert torch.equal(edited(comfy, instruction=learned, **{**UNCHANGED, **changes}), words)


def test_rejects_segment_strengths_that_do_not_fit(comfy):
    graph = comfy.graph()
    changes = {"instruction": instruction(comfy), "segment_strengths": "1, 0"}
    node = edit_guider(comfy, graph, Parts(graph), **changes)
    assert comfy.error(graph, node.out(0)).startswith(
        "Segment strengths: 2 values were given, but the instruction has 5 segments."
    )


def test_panel_receives_the_number_of_segments(comfy):
    nodes = comfy.pack("nodes.editing")
    blend = comfy.pack("core.instruction.instruction").Blend
    weighted = comfy.pack("core.instruction.instruction").WeightedInstruction
    five, two = instruction(comfy), instruction(comfy, segments=2)
    mixed = blend((weighted(1.0, five), weighted(1.0, two)))
    left_out = blend((weighted(1.0, five), weighted(0.0, two)))
    found = [nodes._segments_ui(each)["segments"] for each in (five, two, mixed, left_out)]
    assert found == [[5], [2], [1], [5]]
