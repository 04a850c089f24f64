"""Learn Instruction (adapter) in ComfyUI."""

from dataclasses import replace

import pytest
import torch

from instructbrush.tests.comfy.graphs import Parts, applied, conditioned, make_image, pairs, sampled


def learned(comfy, **changes):
    graph = comfy.graph()
    parts = Parts(graph)
    inputs = {
        "init_text": "make it warm",
        "preset": "custom",
        "rank": 2,
        "bypass": 1,
        "tokens": 3,
        "steps": 4,
        "learning_rate": 0.03,
        "adapter_rate": 0.004,
        "seed": 0,
        "preview_every": 0,
        "hold_out": 0,
        **changes,
    }
    node = graph.node(
        "InstructBrushLearnAdapter",
        model=parts.model,
        clip=parts.clip,
        vae=parts.vae,
        pairs=comfy.give(graph, pairs(comfy)),
        **inputs,
    )
    return comfy.values(graph, node.out(0))[0]


@pytest.mark.parametrize("tokens", [0, 3])
def test_learns_an_adapter_that_edits(comfy, tokens):
    instruction = learned(comfy, tokens=tokens)
    info = instruction.info
    assert (info.space, info.tokens, info.steps, info.settings["rank"]) == ("adapter", tokens, 4, 2)
    assert bool(instruction.keys) == bool(tokens) and any(".bypass." in name for name in instruction.adapter)

    def edited(adapter):
        graph = comfy.graph()
        parts = Parts(graph)
        positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        chosen = replace(instruction, adapter=adapter)
        model, marked = applied(graph, comfy, parts.model, positive, chosen)
        return comfy.values(graph, sampled(graph, model, marked, negative, latent, steps=2))[0]["samples"]

    result = edited(instruction.adapter)
    without = edited({name: torch.zeros_like(tensor) for name, tensor in instruction.adapter.items()})
    assert torch.isfinite(result).all() and (result - without).abs().max() > 0.01


def test_matches_the_trainer_on_the_other_engine(comfy):
    ours = learned(comfy)
    editor = comfy.pack("core.editing.loading").load_editor()
    objectives, requests = comfy.pack("core.learning.objective"), comfy.pack("core.learning.request")
    settings = comfy.pack("core.learning.settings").POCKET_ADAPTER.changed(
        bypass=1, tokens=3, steps=4, learning_rate=0.03, adapter_rate=0.004
    )
    latents = objectives.PairLatents.encode(pairs(comfy), editor.encode_images, editor.scale)
    context, null = editor.encode_text(["make it warm", ""])
    init_text = requests.InitText("make it warm", context)
    request = requests.LearningRequest(editor.denoiser, latents, init_text, null, settings)
    theirs = comfy.pack("core.learning.run").learn(request)
    assert torch.allclose(torch.tensor(ours.info.losses), torch.tensor(theirs.info.losses), rtol=1e-3)
    assert {**ours.info.settings} == {**theirs.info.settings}
