"""Nodes of ComfyUI and of other packs beside Edit Guider, Apply Instruction and Region Edit."""

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
    half,
    instruction,
    latent_of,
    learning,
    make_image,
    predicted,
    sampled,
)
from instructbrush.tests.comfy.learning.test_text_space import text_instruction

X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def learned_in(comfy, space):
    return text_instruction(comfy, 5) if space == "text" else instruction(comfy)


def prediction(comfy, node_id=None, **inputs):
    """Edit Guider's prediction with a node between Load InstructPix2Pix and the guider."""
    graph = comfy.graph()
    parts = Parts(graph)
    if node_id:
        parts.model = graph.node(node_id, model=parts.model, **inputs).out(0)
    guider = comfy.values(graph, edit_guider(comfy, graph, parts, instruction=instruction(comfy)).out(0))[0]
    return predicted(guider, X, 5.0)


def test_guidance_patches_act_in_edit_guider(comfy):
    plain = prediction(comfy)
    neutral = prediction(comfy, "RescaleCFG", multiplier=0.0)
    assert torch.allclose(neutral, plain, atol=1e-4) and not torch.equal(neutral, plain)
    assert not torch.allclose(prediction(comfy, "RescaleCFG", multiplier=0.7), plain, atol=1e-2)


@pytest.mark.parametrize("kind", ["calc", "pre", "post"])
def test_every_kind_of_guidance_patch_gets_the_branches_of_the_words(comfy, kind):
    import comfy as core

    graph = comfy.graph()
    parts = Parts(graph)
    model, clip, vae = comfy.values(graph, parts.model, parts.clip, parts.vae)
    seen = []
    model = model.clone()
    if kind == "calc":

        def replace(args):
            seen.append(len(args["conds"]))
            inner = {name: args[name] for name in ("model", "conds", "model_options")}
            return core.samplers.calc_cond_batch(
                inner["model"], inner["conds"], args["input"], args["sigma"], inner["model_options"]
            )

        model.set_model_sampler_calc_cond_batch_function(replace)
    elif kind == "pre":
        model.set_model_sampler_pre_cfg_function(lambda args: seen.append(2) or args["conds_out"])
    else:
        model.set_model_sampler_post_cfg_function(lambda args: seen.append(2) or args["denoised"])
    graph = comfy.graph()
    for name, value in (("model", model), ("clip", clip), ("vae", vae)):
        setattr(parts, name, comfy.give(graph, value))
    guider = comfy.values(graph, edit_guider(comfy, graph, parts, instruction=instruction(comfy)).out(0))[0]
    assert torch.allclose(predicted(guider, X, 5.0), prediction(comfy), atol=1e-4)
    assert seen == [2]


def test_cfg_plus_plus_samplers_run_with_edit_guider(comfy):
    graph = comfy.graph()
    node = edit_guider(comfy, graph, Parts(graph), instruction=instruction(comfy))
    sampled_node = graph.node(
        "SamplerCustomAdvanced",
        noise=graph.node("RandomNoise", noise_seed=3).out(0),
        guider=node.out(0),
        sampler=graph.node("KSamplerSelect", sampler_name="euler_ancestral_cfg_pp").out(0),
        sigmas=comfy.give(graph, torch.tensor([14.6, 5.0, 1.0, 0.0])),
        latent_image=node.out(1),
    )
    assert torch.isfinite(latent_of(comfy, graph, sampled_node.out(0))).all()


def watch_branches(guider):
    """Returns a list that every attention layer adds the kinds of its call's branches to."""
    seen = []

    def call(apply_model, inputs):
        return apply_model(inputs["input"], inputs["timestep"], **inputs["c"])

    def patch(n, context, value, extra):
        seen.append(list(extra["cond_or_uncond"]))
        return n, context, value

    options = guider.model_options
    guider.model_options = {
        **options,
        "model_function_wrapper": call,
        "transformer_options": {**options["transformer_options"], "patches": {"attn2_patch": [patch]}},
    }
    return seen


def test_patches_see_two_kinds_of_branches(comfy):
    graph = comfy.graph()
    guider = comfy.values(graph, edit_guider(comfy, graph, Parts(graph)).out(0))[0]
    seen = watch_branches(guider)
    predicted(guider, X, 5.0)
    assert {kind for kinds in seen for kind in kinds} == {0, 1}
    assert all(kinds.count(0) == 1 for kinds in seen if len(kinds) == 3)


def test_calls_of_other_nodes_keep_their_kind_of_branch(comfy):
    """Perturbed-attention guidance and others predict the positive branch once more."""
    from comfy.samplers import calc_cond_batch

    graph = comfy.graph()
    guider = comfy.values(graph, edit_guider(comfy, graph, Parts(graph)).out(0))[0]
    seen = watch_branches(guider)
    own = []

    def predict_again(args):
        del seen[:]
        calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], args["model_options"])
        own.extend(seen)
        return args["denoised"]

    guider.model_options["sampler_post_cfg_function"] = [predict_again]
    predicted(guider, X, 5.0)
    assert own and all(kinds == [0] for kinds in own)


def test_a_controlnet_of_the_conditioning_acts_in_all_branches(comfy, addons):  # noqa: F811
    results = []
    for stock in (False, True):
        graph = comfy.graph()
        parts = Parts(graph)
        positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        positive, negative = controlled(comfy, graph, positive, negative, 0.8)
        if stock:
            plain = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
            _, plain = controlled(comfy, graph, plain, plain, 0.8)
            guider = graph.node(
                "DualCFGGuider",
                model=parts.model,
                cond1=positive,
                cond2=negative,
                negative=plain,
                cfg_conds=3.0,
                cfg_cond2_negative=1.4,
                style="regular",
            )
        else:
            guider = edit_guider(comfy, graph, parts, words="", conditioning=positive)
        results.append(custom_sampled(comfy, graph, guider.out(0), latent))
    assert torch.allclose(*results, atol=1e-4)


def test_repeated_latents_keep_the_order_of_the_images(comfy):
    images = torch.cat([make_image(1), make_image(2)])
    graph = comfy.graph()
    guider = comfy.values(
        graph, edit_guider(comfy, graph, Parts(graph), image=comfy.give(graph, images)).out(0)
    )[0]
    found = predicted(guider, X.repeat(4, 1, 1, 1), 5.0)
    assert torch.allclose(found[:2], found[2:], atol=1e-5) and not torch.allclose(
        found[0], found[1], atol=1e-2
    )
    with pytest.raises(Exception, match="it has 2 images, but the sampler's latent has 3"):
        predicted(guider, X.repeat(3, 1, 1, 1), 5.0)


@pytest.mark.parametrize("spaces", [("text", "text"), ("attention", "text"), ("text", "attention")])
def test_rejects_a_second_instruction_in_one_conditioning(comfy, spaces):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model = parts.model
    for space in spaces:
        model, positive = applied(graph, comfy, model, positive, learned_in(comfy, space))
    error = comfy.error(graph, sampled(graph, model, positive, negative, latent))
    assert "already carries an instruction" in error


def test_zeroed_out_conditioning_carries_no_instruction(comfy):
    results = []
    for after in (True, False):
        graph = comfy.graph()
        parts = Parts(graph)
        positive, _, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        model, instructed = applied(graph, comfy, parts.model, positive, instruction(comfy))
        negative = graph.node("ConditioningZeroOut", conditioning=instructed if after else positive).out(0)
        results.append(latent_of(comfy, graph, sampled(graph, model, instructed, negative, latent)))
    assert torch.equal(*results)


def test_says_that_words_after_the_instruction_do_not_act(comfy, caplog):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model, positive = applied(graph, comfy, parts.model, positive, instruction(comfy))
    more = graph.node("CLIPTextEncode", clip=parts.clip, text="a hat").out(0)
    both = graph.node("ConditioningConcat", conditioning_to=positive, conditioning_from=more).out(0)
    comfy.values(graph, sampled(graph, model, positive, negative, latent))
    assert "At strength 1 words do not act" not in caplog.text
    comfy.values(graph, sampled(graph, model, both, negative, latent))
    assert "At strength 1 words do not act" in caplog.text


def test_says_that_the_model_alone_does_nothing(comfy, caplog):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model, _ = applied(graph, comfy, parts.model, positive, instruction(comfy))
    comfy.values(graph, sampled(graph, model, positive, negative, latent))
    assert "Connect the CONDITIONING of Apply Instruction as positive." in caplog.text


def test_a_timestep_range_keeps_the_segments_of_text_states(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, _, _ = conditioned(graph, parts, comfy.give(graph, make_image()))
    _, positive = applied(graph, comfy, parts.model, positive, text_instruction(comfy, 5))
    limited = graph.node("ConditioningSetTimestepRange", conditioning=positive, start=0.25, end=0.75).out(0)
    before, after = comfy.values(graph, positive, limited)
    assert len(before) == len(after) == 5
    for (_, segment), (_, both) in zip(before, after, strict=True):
        assert (both["start_percent"], both["end_percent"]) == (0.25, 0.75)
        for name in ("clip_start_percent", "clip_end_percent"):
            assert both[name] == segment[name]


@pytest.mark.parametrize("space", ["attention", "text"])
def test_a_conditioning_brings_the_scales_of_its_instruction(comfy, space):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, _, _ = conditioned(graph, parts, comfy.give(graph, make_image()))
    learned = learned_in(comfy, space)
    learned = replace(learned, info=replace(learned.info, text_scale=1.1, image_scale=1.3))
    parts.model, positive = applied(graph, comfy, parts.model, positive, learned)
    scales = {"words": "", "text_scale": -1.0, "image_scale": -1.0}
    guider = comfy.values(graph, edit_guider(comfy, graph, parts, conditioning=positive, **scales).out(0))[0]
    assert (guider.text_scale, guider.image_scale) == (1.1, 1.3)


def test_every_instruction_of_a_conditioning_counts_once(comfy):
    """In CLIP space an instruction has an entry for each segment."""
    graph = comfy.graph()
    parts = Parts(graph)
    words, _, _ = conditioned(graph, parts, comfy.give(graph, make_image()))
    branches = []
    for space, scale in (("text", 2.0), ("attention", 1.0)):
        learned = learned_in(comfy, space)
        learned = replace(learned, info=replace(learned.info, text_scale=scale, image_scale=scale))
        parts.model, branch = applied(graph, comfy, parts.model, words, learned)
        branches.append(branch)
    both = graph.node("ConditioningCombine", conditioning_1=branches[0], conditioning_2=branches[1]).out(0)
    (entries,) = comfy.values(graph, both)
    assert len(entries) > 2
    assert comfy.pack("nodes.comfy.sampling.instruction_patch").scales_of(entries) == (1.5, 1.5)


def in_region(comfy, graph, noise):
    parts = Parts(graph)
    source = graph.node("VAEEncode", pixels=comfy.give(graph, make_image()), vae=parts.vae).out(0)
    region = graph.node(
        "InstructBrushRegionEdit",
        model=parts.model,
        latent=source,
        mask=comfy.give(graph, half()),
        blend_every=2,
    )
    parts.model = region.out(0)
    return graph.node(
        "SamplerCustomAdvanced",
        noise=graph.node(*noise[:1], **noise[1]).out(0),
        guider=edit_guider(comfy, graph, parts).out(0),
        sampler=graph.node("KSamplerSelect", sampler_name="euler").out(0),
        sigmas=comfy.give(graph, torch.tensor([14.6, 5.0, 1.0, 0.0])),
        latent_image=region.out(1),
    )


def test_the_denoised_output_is_kept_to_the_region(comfy):
    graph = comfy.graph()
    node = in_region(comfy, graph, ("RandomNoise", {"noise_seed": 3}))
    result, denoised = (each["samples"] for each in comfy.values(graph, node.out(0), node.out(1)))
    assert torch.allclose(result, denoised, atol=1e-4)


def test_region_edit_refuses_to_go_on_from_a_noisy_latent(comfy):
    graph = comfy.graph()
    node = in_region(comfy, graph, ("DisableNoise", {}))
    assert "this sampler adds no noise" in comfy.error(graph, node.out(0))


def test_learning_names_a_model_for_few_steps(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    parts.model = graph.node("ModelSamplingDiscrete", model=parts.model, sampling="lcm", zsnr=False).out(0)
    assert "the MODEL has 50 noise levels" in comfy.error(graph, learning(graph, comfy, parts).out(0))


def test_learning_leaves_easycache_out(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    cached = {"reuse_threshold": 0.2, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    parts.model = graph.node("EasyCache", model=parts.model, **cached).out(0)
    learned = comfy.values(graph, learning(graph, comfy, parts).out(0))[0]
    assert learned.info.steps == 6


def test_parts_of_the_schedule_lie_at_the_same_noise_in_edm_models(comfy):
    from comfy.model_sampling import ModelSamplingContinuousEDM, ModelSamplingDiscrete

    patch = comfy.pack("nodes.comfy.sampling.instruction_patch")
    edm, usual = ModelSamplingContinuousEDM(), ModelSamplingDiscrete()
    for timestep in (100.0, 499.5, 900.0):
        sigma = usual.sigma(torch.tensor(timestep)).item()
        assert edm.percent_to_sigma(patch.percent_of(timestep, edm)) == pytest.approx(sigma, rel=1e-3)
        assert usual.percent_to_sigma(patch.percent_of(timestep, usual)) == pytest.approx(sigma, rel=1e-3)
    assert patch.percent_of(-0.5, usual) == 1.0 and patch.percent_of(999.5, usual) == 0.0
