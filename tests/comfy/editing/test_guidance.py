"""Edit Guider: automatic scales, and branches of Eq. 3 that are not computed."""

from dataclasses import replace

import pytest
import torch

from instructbrush.tests.comfy.editing.test_chain import addons, controlled  # noqa: F401
from instructbrush.tests.comfy.graphs import (
    Parts,
    applied,
    conditioned,
    custom_sampled,
    edit_guider,
    instruction,
    make_image,
    predicted,
)

AUTO = {"text_scale": -1.0, "image_scale": -1.0}
X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def with_scales(comfy, text_scale=1.0, image_scale=1.2):
    learned = instruction(comfy)
    return replace(learned, info=replace(learned.info, text_scale=text_scale, image_scale=image_scale))


def guider_of(comfy, **changes):
    graph = comfy.graph()
    return comfy.values(graph, edit_guider(comfy, graph, Parts(graph), **changes).out(0))[0]


def counted(guider, **options):
    """The guider's prediction, and the rows that the model computed for it."""
    rows = []

    def call(apply_model, inputs):
        rows.append(len(inputs["input"]))
        return apply_model(inputs["input"], inputs["timestep"], **inputs["c"])

    guider.model_options = {**guider.model_options, "model_function_wrapper": call, **options}
    return predicted(guider, X, 5.0), sum(rows)


@pytest.mark.parametrize("changes", [{}, {"strength": 0.5, "words": ""}])
def test_automatic_scales_are_the_instructions_own(comfy, changes):
    found = guider_of(comfy, instruction=with_scales(comfy), **AUTO, **changes)
    assert (found.text_scale, found.image_scale) == (1.0, 1.2)


@pytest.mark.parametrize(
    "changes", [{}, {"strength": 0.0}, {"strength": 0.5}, {"avoid": True}, {"plain": True}]
)
def test_automatic_scales_are_else_the_models_default(comfy, changes):
    """Also below strength 1, where words edit beside the instruction, and with an instruction to avoid, which
    the middle branch needs."""
    inputs = {**AUTO, **changes}
    if inputs.pop("plain", False):
        inputs["instruction"] = instruction(comfy)
    elif changes:
        inputs["instruction"] = with_scales(comfy)
    if "avoid" in inputs:
        inputs["avoid"] = instruction(comfy, 1)
    found = guider_of(comfy, **inputs)
    assert (found.text_scale, found.image_scale) == (2.0, 1.5)


def test_saved_workflows_with_a_number_keep_the_models_text_scale(comfy):
    found = guider_of(comfy, instruction=with_scales(comfy), text_scale=-1.0, image_scale=1.5)
    assert (found.text_scale, found.image_scale) == (2.0, 1.5)
    found = guider_of(comfy, instruction=with_scales(comfy), text_scale=3.0, image_scale=-1.0)
    assert (found.text_scale, found.image_scale) == (3.0, 1.5)


@pytest.mark.parametrize("with_learned", [False, True])
@pytest.mark.parametrize(
    ("text_scale", "image_scale", "branches"),
    [(3.0, 1.4, 3), (3.0, 1.0, 2), (1.4, 1.4, 2), (1.0, 1.0, 1), (0.0, 1.4, 2)],
)
def test_computes_only_the_branches_that_count(comfy, text_scale, image_scale, branches, with_learned):
    inputs = {"text_scale": text_scale, "image_scale": image_scale}
    if with_learned:
        inputs["instruction"] = instruction(comfy)
    guider = guider_of(comfy, **inputs)
    fewer, rows = counted(guider)
    complete, all_rows = counted(guider, disable_cfg1_optimization=True)
    assert (rows, all_rows) == (branches, 3)
    assert (fewer - complete).abs().max() < 1e-6 * complete.abs().max().clamp_min(10)
    assert branches < 3 or torch.equal(fewer, complete)


def test_a_controlnet_acts_without_the_other_branches(comfy, addons):  # noqa: F811
    """With scales of 1 the result is that of ComfyUI's DualCFGGuider, which leaves the branches out, too."""
    results = []
    for strength, stock in ((0.8, False), (0.8, True), (0.0, False)):
        graph = comfy.graph()
        parts = Parts(graph)
        positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        model, positive = applied(graph, comfy, parts.model, positive, instruction(comfy))
        positive, negative = controlled(comfy, graph, positive, negative, strength)
        if stock:
            branches = {"cond1": positive, "cond2": negative, "negative": negative}
            options = {"cfg_conds": 1.0, "cfg_cond2_negative": 1.0, "style": "regular"}
            guider = graph.node("DualCFGGuider", model=model, **branches, **options).out(0)
        else:
            parts.model = model
            changes = {"words": "", "text_scale": 1.0, "image_scale": 1.0, "conditioning": positive}
            guider = edit_guider(comfy, graph, parts, **changes).out(0)
        results.append(custom_sampled(comfy, graph, guider, latent))
    assert torch.equal(results[0], results[1]) and not torch.allclose(results[0], results[2], atol=1e-3)


def test_avoid_without_weight_is_reported_and_disturbs_no_later_edit(comfy, caplog):
    scales = {"text_scale": 1.4, "image_scale": 1.4}
    learned = instruction(comfy)
    alone, _ = counted(guider_of(comfy, instruction=learned, **scales))
    guider = guider_of(comfy, instruction=learned, avoid=instruction(comfy, 1), **scales)
    assert "'avoid' does nothing" in caplog.text
    assert torch.equal(counted(guider)[0], alone) and torch.equal(counted(guider)[0], alone)


def test_rejects_a_conditioning_without_its_model_also_in_one_branch(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, _, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    _, positive = applied(graph, comfy, parts.model, positive, instruction(comfy))
    changes = {"words": "", "text_scale": 1.0, "image_scale": 1.0, "conditioning": positive}
    node = edit_guider(comfy, graph, parts, **changes)
    sampled = graph.node(
        "SamplerCustomAdvanced",
        noise=graph.node("RandomNoise", noise_seed=3).out(0),
        guider=node.out(0),
        sampler=graph.node("KSamplerSelect", sampler_name="euler").out(0),
        sigmas=comfy.give(graph, torch.tensor([14.6, 5.0, 1.0, 0.0])),
        latent_image=latent,
    )
    assert "its MODEL did not" in comfy.error(graph, sampled.out(0))
