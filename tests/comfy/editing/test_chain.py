"""Instructions together with LoRA, ControlNet and other attention patches."""

from dataclasses import replace

import pytest
import torch

from instructbrush.tests.comfy.addons import unet_lora_layers, write_controlnet, write_lora
from instructbrush.tests.comfy.graphs import Parts, applied, conditioned, instruction, make_image, sampled

STEPS = 2
UNET_LORA = "seeded_unet.safetensors"
TEXT_LORA = "seeded_text.safetensors"


@pytest.fixture(scope="module")
def addons(comfy):
    """Writes a UNet LoRA, a text encoder LoRA and a ControlNet."""
    graph = comfy.graph()
    (model,) = comfy.values(graph, Parts(graph).model)
    folder = comfy.base / "models"
    write_lora(folder / "loras" / UNET_LORA, unet_lora_layers(model))
    clip_layers = {f"lora_te_text_model_encoder_layers_{layer}_mlp_fc1": (512, 128) for layer in range(3)}
    write_lora(folder / "loras" / TEXT_LORA, clip_layers)
    write_controlnet(folder / "controlnet" / "seeded.safetensors", model)


def controlled(comfy, graph, positive, negative, strength):
    """Adds the ControlNet. Returns links to positive and negative."""
    net = graph.node("ControlNetLoader", control_net_name="seeded.safetensors")
    node = graph.node(
        "ControlNetApplyAdvanced",
        positive=positive,
        negative=negative,
        control_net=net.out(0),
        image=comfy.give(graph, make_image(9)),
        strength=strength,
        start_percent=0.0,
        end_percent=1.0,
    )
    return node.out(0), node.out(1)


def patched(comfy, graph, model, patch):
    """Replaces the attention of three blocks of a MODEL."""
    (patcher,) = comfy.values(graph, model)
    patcher = patcher.clone()
    for block in (("input", 1), ("middle", 0), ("output", 2)):
        patcher.set_model_attn2_replace(patch, *block)
    return comfy.give(graph, patcher)


def edit(
    comfy,
    learned=None,
    lora=None,
    control=None,
    control_first=False,
    patch=None,
    patch_last=False,
    **changes,
):
    """Samples an edit.

    Args:
        learned: instruction to apply.
        lora: name and strength of a LoRA.
        control: strength of the ControlNet.
        control_first: apply the ControlNet before the instruction.
        patch: replacement of the attention in three blocks.
        patch_last: patch the attention after the instruction is applied.
        changes: settings of the sampler.
    """
    graph = comfy.graph()
    parts = Parts(graph)
    if lora:
        lora_name, lora_strength = lora
        node = graph.node(
            "LoraLoader",
            model=parts.model,
            clip=parts.clip,
            lora_name=lora_name,
            strength_model=lora_strength,
            strength_clip=lora_strength,
        )
        parts.model, parts.clip = node.out(0), node.out(1)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model = parts.model

    if patch and not patch_last:
        model = patched(comfy, graph, model, patch)
    if control is not None and control_first:
        positive, negative = controlled(comfy, graph, positive, negative, control)
    if learned is not None:
        model, positive = applied(graph, comfy, model, positive, learned)
    if control is not None and not control_first:
        positive, negative = controlled(comfy, graph, positive, negative, control)
    if patch and patch_last:
        model = patched(comfy, graph, model, patch)
    return comfy.values(
        graph, sampled(graph, model, positive, negative, latent, **{"steps": STEPS, **changes})
    )[0]["samples"]


def differ(first, second):
    return (first - second).abs().max() > 1e-3 * second.abs().max()


def close(first, second):
    return (first - second).abs().max() <= 2e-5 * second.abs().max()


def test_lora_and_instruction_both_act(comfy, addons):
    learned = instruction(comfy)
    both = edit(comfy, learned, (UNET_LORA, 1.0))
    alone = edit(comfy, learned)
    assert differ(both, alone) and differ(both, edit(comfy, lora=(UNET_LORA, 1.0)))
    assert torch.equal(edit(comfy, learned, (UNET_LORA, 0.0)), alone)


def test_text_lora_does_not_change_an_instruction_at_full_strength(comfy, addons):
    """At full strength, words do not act in the instructed branch (the only one at cfg 1)."""
    learned = instruction(comfy)
    assert differ(edit(comfy, lora=(TEXT_LORA, 1.0), cfg=1.0), edit(comfy, cfg=1.0))
    assert torch.equal(edit(comfy, learned, (TEXT_LORA, 1.0), cfg=1.0), edit(comfy, learned, cfg=1.0))


def test_lora_does_not_change_the_fingerprint(comfy, addons):
    """An instruction learned without a LoRA fits the same model with a merged LoRA."""
    graph = comfy.graph()
    parts = Parts(graph)
    plain, patched = comfy.values(
        graph,
        parts.model,
        graph.node("LoraLoaderModelOnly", model=parts.model, lora_name=UNET_LORA, strength_model=1.0).out(0),
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


@pytest.mark.parametrize("first", [True, False])
def test_controlnet_and_instruction_both_act(comfy, addons, first):
    learned = instruction(comfy)
    both = edit(comfy, learned, control=1.0, control_first=first)
    assert differ(both, edit(comfy, learned)) and differ(both, edit(comfy, control=1.0))
    assert torch.equal(edit(comfy, learned, control=0.0, control_first=first), edit(comfy, learned))
    assert torch.equal(both, edit(comfy, learned, control=1.0, control_first=not first))


def test_controlnet_gets_the_states_of_the_words(comfy, addons, monkeypatch):
    """The instruction changes keys and values in the UNet only."""
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
    """An attention patch like IPAdapter: adds attention to further keys and values."""

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
def test_other_attention_patches_get_the_learned_keys(comfy, addons, last):
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
    # The instructed branch passes learned keys, the other branch those of the words.
    assert any(found) and not all(found)


def with_patched_context(comfy, change, cut=0):
    """Edits with a MODEL whose cross-attention layers get a changed context.

    Args:
        change: changes the context, [B, L, D].
        cut: attention does not see so many last rows of keys and values.
    """
    graph = comfy.graph()
    parts = Parts(graph)
    positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
    model, positive = applied(graph, comfy, parts.model, positive, instruction(comfy))
    (patcher,) = comfy.values(graph, model)
    patcher = patcher.clone()
    patcher.set_model_attn2_patch(lambda n, context, value, options: (n, change(context), change(value)))
    attention = Adapter(0.0)

    def see_first_rows(q, k, v, options):
        seen = k.shape[1] - cut
        return attention(q, k[:, :seen], v[:, :seen], options)

    for site in comfy.pack("nodes.comfy.models.description").describe(patcher).sites:
        patcher.set_model_attn2_replace(see_first_rows, *site.block)
    model = comfy.give(graph, patcher)
    return graph, sampled(graph, model, positive, negative, latent, steps=STEPS)


def test_patches_may_append_rows(comfy):
    def append(context):
        return torch.cat([context, context[:, :3]], 1)

    (plain,) = comfy.values(*with_patched_context(comfy, lambda context: context))
    (cut,) = comfy.values(*with_patched_context(comfy, append, cut=3))
    assert close(cut["samples"], plain["samples"])


@pytest.mark.parametrize(
    "change", [lambda context: context[:, :5], lambda context: context.repeat_interleave(2, 0)]
)
def test_names_patches_that_regroup_the_context(comfy, change):
    message = comfy.error(*with_patched_context(comfy, change))
    assert message.startswith("Apply Instruction: a cross-attention layer got keys of")


def test_dual_guider_with_lora_controlnet_and_instruction(comfy, addons):
    """The instruction still acts under DualCFGGuider with a LoRA and a ControlNet."""

    def run(learned):
        graph = comfy.graph()
        parts = Parts(graph)
        node = graph.node(
            "LoraLoader",
            model=parts.model,
            clip=parts.clip,
            lora_name=UNET_LORA,
            strength_model=0.5,
            strength_clip=0.5,
        )
        parts.model, parts.clip = node.out(0), node.out(1)
        positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        model = parts.model
        if learned is not None:
            model, positive = applied(graph, comfy, model, positive, learned)
        positive, negative = controlled(comfy, graph, positive, negative, 0.8)
        plain = graph.node("CLIPTextEncode", clip=parts.clip, text="").out(0)
        guider = graph.node(
            "DualCFGGuider",
            model=model,
            cond1=positive,
            cond2=negative,
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


def halve_context(patcher):
    """Patches like a hypernetwork's: they change what is projected, and the output."""
    patcher.set_model_attn1_patch(lambda n, context, value, options: (n, 0.5 * context, value))
    patcher.set_model_attn2_output_patch(lambda n, options: 0.5 * n)


MODEL_PATCHES = {
    "TomePatchModel": {"ratio": 0.5},
    "HyperTile": {"tile_size": 32, "swap_size": 1, "max_depth": 3, "scale_depth": False},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "halve_context": {},
}


@pytest.mark.parametrize("name", MODEL_PATCHES)
def test_adapters_act_beside_other_patches_of_the_model(comfy, name):
    """Token merging and tiles change what is projected, the guidances replace self-attention."""
    learned = instruction(comfy, space="adapter")

    def sample(apply_learned, patch_last=False):
        graph = comfy.graph()
        parts = Parts(graph)
        positive, negative, latent = conditioned(graph, parts, comfy.give(graph, make_image()))
        model = parts.model

        def patch(link):
            if name != "halve_context":
                return graph.node(name, model=link, **MODEL_PATCHES[name]).out(0)
            (patcher,) = comfy.values(graph, link)
            patcher = patcher.clone()
            halve_context(patcher)
            return comfy.give(graph, patcher)

        if not patch_last:
            model = patch(model)
        if apply_learned:
            model, positive = applied(graph, comfy, model, positive, learned)
        if patch_last:
            model = patch(model)
        return comfy.values(graph, sampled(graph, model, positive, negative, latent, steps=2))[0]["samples"]

    both = sample(True)
    assert torch.isfinite(both).all() and differ(both, sample(False))
    assert close(sample(True, patch_last=True), both)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_adapters_leave_other_rows_alone_when_images_are_cut_into_tiles(comfy, strength):
    """HyperTile makes several rows of one image."""
    learned = instruction(comfy, space="adapter")
    # Residuals of every segment, so that images have residuals of their own.
    segments = {name: tensor.repeat(5, 1, 1) for name, tensor in learned.adapter.items()}
    learned = replace(learned, adapter=segments)

    def first_call(count, learned=learned, cfg=2.0):
        graph = comfy.graph()
        parts = Parts(graph)
        images = comfy.give(graph, make_image(0, count))
        positive, negative, latent = conditioned(graph, parts, images)
        model = graph.node("HyperTile", model=parts.model, **MODEL_PATCHES["HyperTile"]).out(0)
        if learned is not None:
            model, positive = applied(graph, comfy, model, positive, learned, strength=strength)
        (patcher,) = comfy.values(graph, model)
        patcher = patcher.clone()
        seen = {}

        def record(apply_model, inputs):
            output = apply_model(inputs["input"], inputs["timestep"], **inputs["c"])
            for kind, rows in zip(
                inputs["cond_or_uncond"], output.chunk(len(inputs["cond_or_uncond"])), strict=True
            ):
                seen.setdefault(kind, rows.clone())
            return output

        patcher.set_model_unet_function_wrapper(record)
        model = comfy.give(graph, patcher)
        comfy.values(graph, sampled(graph, model, positive, negative, latent, steps=1, cfg=cfg))
        return seen

    marked, unmarked = 0, 1
    both = first_call(2)
    assert torch.equal(both[unmarked], first_call(2, learned=None)[unmarked])
    assert differ(both[marked], first_call(2, learned=None)[marked])
    assert close(first_call(2, cfg=1.0)[marked], both[marked])
