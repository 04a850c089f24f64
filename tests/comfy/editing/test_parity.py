"""Parity: an instruction without effect leaves the graph bit-identical, and both engines agree."""

from pathlib import Path

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
    learning,
    make_image,
    pairs,
    predicted,
    sampled,
)

SPACES = pytest.mark.parametrize("space", ["attention", "adapter"])


def stock(comfy, **changes):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    return latent_of(comfy, graph, sampled(graph, parts.model, positive, negative, latent, **changes))


def with_instruction(comfy, learned, **changes):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model, marked = applied(graph, comfy, parts.model, positive, learned, **changes)
    return latent_of(comfy, graph, sampled(graph, model, marked, negative, latent))


@SPACES
def test_parity_strength_0_matches_the_stock_graph(comfy, space):
    assert torch.equal(with_instruction(comfy, instruction(comfy, space=space), strength=0.0), stock(comfy))


@SPACES
def test_parity_empty_timestep_range_matches_the_stock_graph(comfy, space):
    empty = with_instruction(comfy, instruction(comfy, space=space), end_timestep=1000)
    assert torch.equal(empty, stock(comfy))


def test_parity_patched_model_without_instruction_matches_the_stock_graph(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model, _ = applied(graph, comfy, parts.model, positive, instruction(comfy))
    assert torch.equal(
        latent_of(comfy, graph, sampled(graph, model, positive, negative, latent)), stock(comfy)
    )


def test_instruction_changes_the_result(comfy):
    assert not torch.allclose(with_instruction(comfy, instruction(comfy)), stock(comfy), atol=1e-3)


@SPACES
def test_parity_edit_guider_matches_equation_3(comfy, space):
    """One step of Edit Guider against three predictions combined by hand."""
    learned = instruction(comfy, space=space)
    graph = comfy.graph()
    parts = Parts(graph)
    guider, model, clip, vae = comfy.values(
        graph,
        edit_guider(comfy, graph, parts, instruction=learned).out(0),
        parts.model,
        parts.clip,
        parts.vae,
    )
    timestep = torch.tensor([700])
    sigma = model.model.model_sampling.sigmas.cpu()[timestep]
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    denoised = predicted(guider, x, sigma.item())
    with torch.inference_mode():
        image = vae.encode(make_image())
    denoiser = comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model)
    text = comfy.pack("nodes.comfy.sampling.text_encoding")
    words = text.encode(clip, "make it night")[0][0].to(comfy.device)
    empty = text.encode(clip, "")[0][0].to(comfy.device)
    timestep = timestep.to(comfy.device)
    noisy = (x / (sigma**2 + 1).sqrt()).to(comfy.device)
    image = image.to(comfy.device)
    injection = comfy.pack("core.instruction.injection").inject(learned, device=comfy.device)
    with denoiser.loaded(), torch.no_grad():
        full = denoiser.predict(noisy, timestep, image, words, injection)
        image_alone = denoiser.predict(noisy, timestep, image, empty)
        neither = denoiser.predict(noisy, timestep, torch.zeros_like(image), empty)
    by_hand = neither + 1.4 * (image_alone - neither) + 3.0 * (full - image_alone)
    assert torch.allclose((x - denoised) / sigma, by_hand.cpu(), atol=1e-4)


@pytest.mark.parametrize("with_learned", [False, True])
def test_parity_edit_guider_matches_the_stock_dual_guider(comfy, with_learned):
    learned = instruction(comfy)
    graph = comfy.graph()
    parts = Parts(graph)
    node = edit_guider(comfy, graph, parts, **({"instruction": learned} if with_learned else {}))
    ours = custom_sampled(comfy, graph, node.out(0), node.out(1))
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model = parts.model
    if with_learned:
        model, positive = applied(graph, comfy, model, positive, learned)
    plain = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
    guider = graph.node(
        "DualCFGGuider",
        model=model,
        cond1=positive,
        cond2=negative,
        negative=plain,
        cfg_conds=3.0,
        cfg_cond2_negative=1.4,
        style="regular",
    )
    assert torch.equal(ours, custom_sampled(comfy, graph, guider.out(0), latent))


def test_parity_edit_guider_at_strength_0_matches_words(comfy):
    results = []
    for changes in ({}, {"strength": 0.0}):
        graph = comfy.graph()
        if changes:
            changes["instruction"] = instruction(comfy)
        node = edit_guider(comfy, graph, Parts(graph), **changes)
        results.append(custom_sampled(comfy, graph, node.out(0), node.out(1)))
    assert torch.equal(*results)


@pytest.mark.parametrize("objective", ["plain", "guided"])
@pytest.mark.parametrize("checkpointing", [False, True])
@SPACES
def test_parity_engines_give_the_same_loss_and_gradients(comfy, space, objective, checkpointing):
    graph = comfy.graph()
    parts = Parts(graph)
    model, clip = comfy.values(graph, parts.model, parts.clip)
    encode = comfy.pack("nodes.comfy.sampling.text_encoding").encode_window
    states = [encode(clip, words)[0] for words in ("make it warm", "")]
    objectives, trainers = comfy.pack("core.learning.objective"), comfy.pack("core.learning.trainer")
    requests = comfy.pack("core.learning.request")
    settings = comfy.pack("core.learning.settings").LearningSettings(
        space, tokens=6, segments=3, steps=2, objective=objective
    )
    generator = torch.Generator().manual_seed(0)
    latents = objectives.PairLatents(
        *([torch.randn(4, 8, 8, generator=generator).to(comfy.device) for _ in range(2)] for _ in range(2))
    )
    engines = {
        "comfy": comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(
            model, checkpointing=checkpointing
        ),
        "diffusers": comfy.pack("core.editing.loading").load_editor(device=comfy.device).denoiser,
    }
    found = {}
    with engines["comfy"].loaded():
        for name, engine in engines.items():
            init_text = requests.InitText("make it warm", states[0].clone())
            trainer = trainers.Trainer(
                requests.LearningRequest(engine, latents, init_text, states[1].clone(), settings)
            )
            noise = [
                torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(index)) for index in range(3)
            ]
            (samples,) = objectives.collect(
                latents, list(zip((0, 1, 1), (37, 512, 940), noise, strict=True)), engine.device
            )
            losses = objectives.noise_errors(
                engine, samples, trainer.context, trainer.null_context, trainer.injection(), settings
            )
            losses.sum().backward()
            found[name] = (losses.detach(), {key: tensor.grad for key, tensor in trainer.parameters.items()})
    ours, theirs = found["comfy"], found["diffusers"]
    assert engines["comfy"].description == engines["diffusers"].description
    assert torch.allclose(ours[0], theirs[0], rtol=1e-4, atol=0)
    for name, gradient in theirs[1].items():
        assert (ours[1][name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@SPACES
def test_parity_saved_and_loaded_instruction_edits_the_same(comfy, space):
    learned = instruction(comfy, space=space)
    graph = comfy.graph()
    saved = graph.node(
        "InstructBrushSave",
        instruction=comfy.give(graph, learned),
        name="parity/seeded",
        if_taken="overwrite",
        precision="fp32",
    )
    path = Path(comfy.values(graph, saved.out(1))[0])
    assert path == comfy.base / "output" / "instructions" / "parity" / "seeded.safetensors"
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    loaded = graph.node("InstructBrushLoad", name="parity/seeded.safetensors")
    node = graph.node(
        "InstructBrushApply",
        model=parts.model,
        conditioning=positive,
        instruction=loaded.out(0),
        strength=1.0,
        end_timestep=0,
    )
    assert torch.equal(
        latent_of(comfy, graph, sampled(graph, node.out(0), node.out(1), negative, latent)),
        with_instruction(comfy, learned),
    )


def test_parity_learn_node_matches_the_trainer(comfy):
    """Learn Instruction against the same trainer on the diffusers engine."""
    graph = comfy.graph()
    parts = Parts(graph)
    ours = comfy.values(graph, learning(graph, comfy, parts).out(0))[0]
    editor = comfy.pack("core.editing.loading").load_editor()
    objectives = comfy.pack("core.learning.objective")
    settings = comfy.pack("core.learning.settings").LearningSettings(
        tokens=4, segments=2, steps=6, learning_rate=0.03, final_learning_rate=0.003, text_scale=2.0
    )
    latents = objectives.PairLatents.encode(pairs(comfy), editor.encode_images, editor.scale)
    context, null = editor.encode_text(["make it warm", ""])
    requests = comfy.pack("core.learning.request")
    init_text = requests.InitText("make it warm", context)
    request = requests.LearningRequest(editor.denoiser, latents, init_text, null, settings)
    theirs = comfy.pack("core.learning.run").learn(request)
    assert torch.allclose(torch.tensor(ours.info.losses), torch.tensor(theirs.info.losses), rtol=1e-3)
    assert {**ours.info.settings} == {**theirs.info.settings}


def test_parity_engines_agree_on_the_pocket_editor(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    model, clip, vae = comfy.values(graph, parts.model, parts.clip, parts.vae)
    editor = comfy.pack("core.editing.loading").load_editor()
    image = make_image(5, 2)
    latent = editor.encode_images(image)
    with torch.inference_mode():  # as nodes run
        assert torch.allclose(vae.encode(image), latent, atol=1e-4)
        assert torch.allclose(vae.decode(latent), editor.decode(latent), atol=1e-4)
    for words in ("", "make it night", "turn the red circle into a blue square, please!", "night " * 60):
        tokens = clip.tokenize(words)
        with torch.inference_mode():
            states = clip.encode_from_tokens_scheduled({"l": tokens["l"][:1]})[0][0]
        # A longer text is cut to the first window by both engines.
        assert torch.allclose(states, editor.encode_text([words]), atol=1e-4), words
    generator = torch.Generator().manual_seed(2)
    noisy = torch.randn(2, 4, 9, 12, generator=generator)
    image_latent = torch.randn(2, 4, 9, 12, generator=generator)
    context = editor.encode_text(["make it night", ""])
    timesteps = torch.tensor([10, 900])
    expected = editor.denoiser.predict(noisy, timesteps, image_latent, context)
    denoiser = comfy.pack("nodes.comfy.sampling.comfy_denoiser").ComfyDenoiser(model)
    with denoiser.loaded(), torch.no_grad():
        inputs = [each.to(comfy.device) for each in (noisy, timesteps, image_latent, context)]
        assert torch.allclose(denoiser.predict(*inputs).cpu(), expected, atol=1e-4)
        projected = denoiser.project(context[0])
        expected_projected = editor.denoiser.project(context[0])
        assert projected.keys() == expected_projected.keys()
        for name, (keys, values) in projected.items():
            expected_keys, expected_values = expected_projected[name]
            assert torch.allclose(keys.cpu(), expected_keys, atol=1e-5)
            assert torch.allclose(values.cpu(), expected_values, atol=1e-5)
