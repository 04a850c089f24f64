"""An instruction in a chain with LoRA, ControlNet and another attention patch: each changes only what it should."""

import pytest
import torch

from instructbrush.tests.comfy.addons import unet_lora_layers, write_controlnet, write_lora
from instructbrush.tests.comfy.graphs import Parts, applied, conditioned, instruction, make_image, sampled

STEPS = 2


@pytest.fixture(scope="module")
def addons(comfy):
    """Names of the files made for these tests."""
    graph = comfy.graph()
    (model,) = comfy.values(graph, Parts(graph).model)
    folder = comfy.base / "models"
    write_lora(folder / "loras" / "seeded_unet.safetensors", unet_lora_layers(model))
    clip_layers = {f"lora_te_text_model_encoder_layers_{layer}_mlp_fc1": (512, 128) for layer in range(3)}
    write_lora(folder / "loras" / "seeded_text.safetensors", clip_layers)
    write_controlnet(folder / "controlnet" / "seeded.safetensors", model)


def edit(
    comfy,
    learned=None,
    lora=None,
    lora_strength=1.0,
    control=None,
    before=False,
    patch=None,
    patch_last=False,
    **changes,
):
    """Sample with what is given in the chain. ``before``: ControlNet is applied before the instruction."""
    graph = comfy.graph()
    parts = Parts(graph)
    if lora:
        node = graph.node(
            "LoraLoader",
            model=parts.model,
            clip=parts.clip,
            lora_name=lora,
            strength_model=lora_strength,
            strength_clip=lora_strength,
        )
        parts.model, parts.clip = node.out(0), node.out(1)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model = parts.model

    def controlled(positive, negative):
        net = graph.node("ControlNetLoader", control_net_name="seeded.safetensors")
        node = graph.node(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=negative,
            control_net=net.out(0),
            image=comfy.give(graph, make_image(9)),
            strength=control,
            start_percent=0.0,
            end_percent=1.0,
        )
        return node.out(0), node.out(1)

    def patched(model):
        (patcher,) = comfy.values(graph, model)
        patcher = patcher.clone()
        for block in (("input", 1), ("middle", 0), ("output", 2)):
            patcher.set_model_attn2_replace(patch, *block)
        return comfy.give(graph, patcher)

    if patch and not patch_last:
        model = patched(model)
    if control is not None and before:
        positive, negative = controlled(positive, negative)
    if learned is not None:
        model, positive = applied(graph, comfy, model, positive, learned)
    if control is not None and not before:
        positive, negative = controlled(positive, negative)
    if patch and patch_last:
        model = patched(model)
    return comfy.values(
        graph, sampled(graph, model, positive, negative, latent, **{"steps": STEPS, **changes})
    )[0]["samples"]


def differ(first, second):
    return (first - second).abs().max() > 1e-3 * second.abs().max()


def close(first, second):
    return (first - second).abs().max() <= 2e-5 * second.abs().max()


def test_lora_and_instruction_both_act(comfy, addons):
    learned = instruction(comfy)
    both, alone = edit(comfy, learned, "seeded_unet.safetensors"), edit(comfy, learned)
    assert differ(both, alone) and differ(both, edit(comfy, lora="seeded_unet.safetensors"))
    assert torch.equal(edit(comfy, learned, "seeded_unet.safetensors", lora_strength=0.0), alone)


def test_lora_on_words_leaves_a_full_instruction_alone(comfy, addons):
    """A LoRA on the text encoder changes words; at full strength the words play no part, in the instructed branch (cfg 1)."""
    learned = instruction(comfy)
    assert differ(edit(comfy, lora="seeded_text.safetensors", cfg=1.0), edit(comfy, cfg=1.0))
    assert torch.equal(
        edit(comfy, learned, "seeded_text.safetensors", cfg=1.0), edit(comfy, learned, cfg=1.0)
    )


def test_a_lora_does_not_change_the_models_identity(comfy, addons):
    """An instruction learned without a LoRA fits the same model with one, loaded and merged."""
    graph = comfy.graph()
    parts = Parts(graph)
    plain, patched = comfy.values(
        graph,
        parts.model,
        graph.node(
            "LoraLoaderModelOnly", model=parts.model, lora_name="seeded_unet.safetensors", strength_model=1.0
        ).out(0),
    )
    from comfy import model_management as management

    describe = comfy.pack("nodes.comfy.models.description")
    with torch.inference_mode():
        management.load_models_gpu([patched], force_patch_weights=True)
        describe._cache.clear()
        merged = describe.describe(patched)
        management.load_models_gpu([plain])
        describe._cache.clear()
        assert merged == describe.describe(plain)


@pytest.mark.parametrize("before", [True, False])
def test_controlnet_and_instruction_both_act(comfy, addons, before):
    learned = instruction(comfy)
    both = edit(comfy, learned, control=1.0, before=before)
    assert differ(both, edit(comfy, learned)) and differ(both, edit(comfy, control=1.0))
    assert torch.equal(edit(comfy, learned, control=0.0, before=before), edit(comfy, learned))
    assert torch.equal(both, edit(comfy, learned, control=1.0, before=not before))


def test_controlnet_never_sees_learned_rows(comfy, addons, monkeypatch):
    """It is given the words' states, whatever the instruction does in the UNet."""
    from comfy.cldm import cldm

    seen = {"plain": [], "learned": []}
    forward = cldm.ControlNet.forward
    kind = "plain"

    def spy(self, x, hint, timesteps, context, *rest, **named):
        seen[kind].append(context.clone())
        return forward(self, x, hint, timesteps, context, *rest, **named)

    monkeypatch.setattr(cldm.ControlNet, "forward", spy)
    edit(comfy, control=1.0, steps=1)
    kind = "learned"
    edit(comfy, instruction(comfy), control=1.0, steps=1)
    plain = torch.cat(seen["plain"])
    for context in torch.cat(seen["learned"]):
        assert any(torch.equal(context, known) for known in plain)


class Adapter:
    """What IPAdapter does: the attention of the words plus an attention of its own."""

    def __init__(self, weight=1.0):
        self.weight, self.keys = weight, []

    def __call__(self, q, k, v, extra_options):
        from comfy.ldm.modules.attention import optimized_attention

        self.keys.append(k.cpu().clone())
        own = (
            torch.randn(1, 4, k.shape[-1], generator=torch.Generator().manual_seed(7))
            .expand(k.shape[0], -1, -1)
            .to(k)
        )
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        return out + self.weight * optimized_attention(q, own, own, extra_options["n_heads"])


@pytest.mark.parametrize("last", [False, True])
def test_another_attention_replacement_is_chained(comfy, addons, last):
    learned = instruction(comfy)
    alone = edit(comfy, learned)
    adapter = Adapter()
    both = edit(comfy, learned, patch=adapter, patch_last=last)
    assert differ(both, alone) and differ(both, edit(comfy, patch=Adapter()))
    assert close(edit(comfy, learned, patch=Adapter(0.0), patch_last=last), alone)
    rows = learned.keys["mid_block.attentions.0.transformer_blocks.0.attn2"]
    seen = [
        keys[1 : 1 + rows.shape[1]]
        for batch in adapter.keys
        if batch.shape[-1] == rows.shape[-1]
        for keys in batch
    ]
    found = [any(torch.allclose(keys, segment) for segment in rows) for keys in seen]
    assert any(found) and not all(
        found
    )  # the instructed branch shows it the learned keys, the other branch the words'


def test_dual_guider_with_everything_in_the_chain(comfy, addons):
    """LoRA, ControlNet, another replacement and an instruction under DualCFGGuider: runs, and the instruction still counts."""

    def run(learned):
        graph = comfy.graph()
        parts = Parts(graph)
        node = graph.node(
            "LoraLoader",
            model=parts.model,
            clip=parts.clip,
            lora_name="seeded_unet.safetensors",
            strength_model=0.5,
            strength_clip=0.5,
        )
        parts.model, parts.clip = node.out(0), node.out(1)
        positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        model = parts.model
        if learned is not None:
            model, positive = applied(graph, comfy, model, positive, learned)
        net = graph.node("ControlNetLoader", control_net_name="seeded.safetensors")
        image = comfy.give(graph, make_image(9))
        control = {
            "control_net": net.out(0),
            "image": image,
            "strength": 0.8,
            "start_percent": 0.0,
            "end_percent": 1.0,
        }
        node = graph.node("ControlNetApplyAdvanced", positive=positive, negative=negative, **control)
        plain = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
        guider = graph.node(
            "DualCFGGuider",
            model=model,
            cond1=node.out(0),
            cond2=node.out(1),
            negative=plain,
            cfg_conds=2.0,
            cfg_cond2_negative=1.5,
            style="regular",
        )
        advanced = graph.node(
            "SamplerCustomAdvanced",
            noise=graph.node("RandomNoise", noise_seed=1).out(0),
            guider=guider.out(0),
            sampler=graph.node("KSamplerSelect", sampler_name="euler_ancestral").out(0),
            sigmas=graph.node(
                "BasicScheduler", model=model, scheduler="normal", steps=STEPS, denoise=1.0
            ).out(0),
            latent_image=latent,
        )
        return comfy.values(graph, advanced.out(0))[0]["samples"]

    assert differ(run(instruction(comfy)), run(None))
