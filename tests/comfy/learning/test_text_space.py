"""Instructions in text space: learning, applying as CONDITIONING, and fixed noise."""

from dataclasses import replace

import pytest
import torch

from instructbrush.tests.comfy.graphs import (
    Parts,
    applied,
    conditioned,
    custom_sampled,
    edit_guider,
    instruction,
    latent_of,
    make_image,
    pairs,
    sampled,
)


def text_instruction(comfy, segments=1, tokens=4, **settings):
    """Random text states for the pocket editor."""
    description = comfy.pack("core.editing.loading").load_editor().description
    artefact = comfy.pack("core.instruction.instruction")
    generator = torch.Generator().manual_seed(0)
    info = artefact.InstructionInfo(
        "pocket",
        description.fingerprint,
        segments,
        tokens,
        space="text",
        init_text="seeded",
        settings=settings,
    )
    context = torch.randn(32, description.family.context_width, generator=generator)
    rows = torch.randn(segments, tokens, description.family.context_width, generator=generator)
    return artefact.Instruction({}, {}, context, 1, info, rows)


def learning_text(graph, comfy, parts, **changes):
    settings = {
        "init_text": "make it warm",
        "preset": "custom",
        "tokens": 4,
        "steps": 4,
        "batch": 2,
        "learning_rate": 0.02,
        "direction_weight": 0.1,
        "seed": 0,
        "preview_every": 0,
        "hold_out": 0,
        **changes,
    }
    pair_link = comfy.give(graph, pairs(comfy))
    return graph.node(
        "InstructBrushLearnText",
        model=parts.model,
        clip=parts.clip,
        vae=parts.vae,
        pairs=pair_link,
        **settings,
    )


def edited(comfy, learned, **changes):
    """KSampler with Apply Instruction, MODEL wired or not."""
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    wire_model = changes.pop("wire_model", True)
    model, marked = applied(graph, comfy, parts.model, positive, learned, **changes)
    return latent_of(
        comfy, graph, sampled(graph, model if wire_model else parts.model, marked, negative, latent)
    )


def test_learns_text_states_with_the_clip_direction(comfy):
    results = []
    for weight in (0.0, 5.0):
        graph = comfy.graph()
        node = learning_text(
            graph,
            comfy,
            Parts(graph),
            direction_weight=weight,
            open_clip=comfy.give(graph, comfy.pack("core.encoders.pocket_clip").pocket_clip()),
        )
        (learned,) = comfy.values(graph, node.out(0))
        assert learned.info.space == "text" and learned.rows.shape[:2] == (1, 4) and not learned.keys
        assert learned.info.settings["direction_weight"] == weight
        results.append(learned.rows)
    assert not torch.equal(*results)


def test_has_no_direction_without_open_clip(comfy):
    graph = comfy.graph()
    run = comfy.run(graph, learning_text(graph, comfy, Parts(graph), preset="custom").out(0))
    (learned,) = run.values
    assert learned.info.settings["direction_weight"] == 0.0
    assert learned.info.settings["losses"] == "noise"
    assert "The direction loss" in run.data("instructbrush.learn")[-1]["state"]


def test_works_as_plain_conditioning(comfy):
    """The MODEL is the same object, and the states are those of the file, for any words."""
    learned = text_instruction(comfy)
    graph = comfy.graph()
    parts = Parts(graph)
    positive, _, _ = conditioned(graph, parts, comfy.give(graph, make_image()))
    model, marked = applied(graph, comfy, parts.model, positive, learned)
    given, out, conditioning = comfy.values(graph, parts.model, model, marked)
    assert out is given
    expected = torch.cat([learned.context[:1], learned.rows[0], learned.context[5:]])
    assert (
        len(conditioning) == 1
        and torch.equal(conditioning[0][0][0], expected)
        and "concat_latent_image" in conditioning[0][1]
    )
    assert torch.equal(edited(comfy, learned), edited(comfy, learned, wire_model=False))


def test_strength_mixes_with_the_words(comfy):
    learned = text_instruction(comfy)
    graph = comfy.graph()
    parts = Parts(graph)
    positive, _, _ = conditioned(graph, parts, comfy.give(graph, make_image()))
    _, half = applied(graph, comfy, parts.model, positive, learned, strength=0.5)
    _, whole = applied(graph, comfy, parts.model, positive, learned)
    words, mixed, full = comfy.values(graph, positive, half, whole)
    assert torch.allclose(mixed[0][0], (words[0][0] + full[0][0]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("segments", "changes"),
    [(5, {}), (1, {"end_timestep": 500}), (5, {"strength": 0.5, "start_timestep": 900, "end_timestep": 250})],
)
def test_timestep_ranges_match_the_model_patch(comfy, segments, changes):
    """Entries with timestep ranges match the same injection in the attention layers."""
    learned = text_instruction(comfy, segments=segments)
    plain = edited(comfy, learned, **changes)
    injection = comfy.pack("core.instruction.injection").inject(
        learned,
        changes.get("strength", 1.0),
        None,
        changes.get("start_timestep", 1000),
        changes.get("end_timestep", 0),
    )
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    patch, describe = (
        comfy.pack("nodes.comfy.sampling.instruction_patch"),
        comfy.pack("nodes.comfy.models.description").describe,
    )
    model, conditioning = comfy.values(graph, parts.model, positive)
    marked = comfy.give(graph, patch.attach_instruction(conditioning, injection, describe(model)))
    by_patch = latent_of(
        comfy, graph, sampled(graph, comfy.give(graph, patch.patch_model(model)), marked, negative, latent)
    )
    assert torch.allclose(plain, by_patch, atol=1e-4)


def test_parity_strength_zero_is_the_stock_graph(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, _, _ = conditioned(graph, parts, comfy.give(graph, make_image()))
    _, same = applied(graph, comfy, parts.model, positive, text_instruction(comfy), strength=0.0)
    assert comfy.values(graph, positive)[0] is comfy.values(graph, same)[0]


def test_avoid_uses_the_middle_branch(comfy):
    """Words, and an instruction in the middle branch, match the stock DualCFGGuider with the instruction in
    its second conditioning."""
    for learned in (text_instruction(comfy), instruction(comfy)):
        graph = comfy.graph()
        node = edit_guider(comfy, graph, Parts(graph), avoid=learned)
        ours = custom_sampled(comfy, graph, node.out(0), node.out(1))
        graph = comfy.graph()
        parts = Parts(graph)
        positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        model, middle = applied(graph, comfy, parts.model, negative, learned)
        plain = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
        guider = graph.node(
            "DualCFGGuider",
            model=model,
            cond1=positive,
            cond2=middle,
            negative=plain,
            cfg_conds=3.0,
            cfg_cond2_negative=1.4,
            style="regular",
        )
        assert torch.equal(ours, custom_sampled(comfy, graph, guider.out(0), latent))


def test_fixed_noise_is_reproducible_and_matches_the_diffusers_engine(comfy):
    """NOISE and SAMPLER of Fixed Noise in SamplerCustomAdvanced, twice, match ``edit_latents`` with fixed
    noise."""
    learned = text_instruction(comfy, noise="fixed", seed=7)
    results = []
    for _ in range(2):
        graph = comfy.graph()
        parts = Parts(graph)
        guider = edit_guider(comfy, graph, parts, instruction=learned)
        noise = graph.node("InstructBrushFixedNoise", instruction=comfy.give(graph, learned))
        sigmas = graph.node(
            "BasicScheduler", model=parts.model, scheduler="normal", steps=6, denoise=1.0
        ).out(0)
        node = graph.node(
            "SamplerCustomAdvanced",
            noise=noise.out(0),
            guider=guider.out(0),
            sampler=noise.out(1),
            sigmas=sigmas,
            latent_image=guider.out(1),
        )
        results.append(latent_of(comfy, graph, node.out(0)))
        comfy.forget()
    torch.testing.assert_close(*results, rtol=0, atol=0)
    editor = comfy.pack("core.editing.loading").load_editor()
    context, null = editor.encode_text(["make it night", ""])
    injection = comfy.pack("core.instruction.injection").inject(learned)
    image = editor.encode_images(make_image())
    edit = comfy.pack("core.editing.sampler").edit_latents
    settings = comfy.pack("core.editing.settings").SamplingSettings(6, 3.0, 1.4, seed=7, fixed_noise=True)
    theirs = edit(editor.denoiser, image, context, null, injection, settings)
    fresh = edit(editor.denoiser, image, context, null, injection, replace(settings, fixed_noise=False))
    ours = results[0].flatten()
    assert (ours - theirs.flatten()).norm() < 0.1 * (ours - fresh.flatten()).norm()


def test_fixed_noise_rejects_other_instructions(comfy):
    graph = comfy.graph()
    node = graph.node("InstructBrushFixedNoise", instruction=comfy.give(graph, text_instruction(comfy)))
    assert comfy.error(graph, node.out(0)) == (
        "Fixed Noise: 'seeded' was not learned with one fixed noise. Learn it with noise set to 'fixed', or "
        "sample with random noise instead."
    )
