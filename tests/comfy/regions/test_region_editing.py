"""Region Edit in a real ComfyUI: Eq. 1 with stock samplers, constant masks, batches, and other nodes."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import (
    STEPS,
    Parts,
    applied,
    conditioned,
    images_of,
    instruction,
    make_image,
    sampled,
)

SEED = 3


def disc(height=64, width=64, x=0.5, y=0.5, radius=0.3):
    """A mask [1, height, width] of a disc with a soft edge."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return ((radius - ((rows - y) ** 2 + (columns - x) ** 2).sqrt()) * 12 + 0.5).clamp(0, 1)[None]


def encoded(graph, parts, image):
    return graph.node("VAEEncode", pixels=image, vae=parts.vae).out(0)


def region_edit(comfy, image, mask, every=2, **changes):
    """Returns the graph, and the LATENTs of the free edit, of the edit in the region, and of the source."""
    graph = comfy.graph()
    parts = Parts(graph)
    pixels = comfy.give(graph, image)
    positive, negative, _ = conditioned(graph, parts, pixels)
    source = encoded(graph, parts, pixels)
    node = graph.node(
        "InstructBrushRegionEdit",
        model=parts.model,
        latent=source,
        mask=comfy.give(graph, mask),
        blend_every=every,
    )
    free = sampled(graph, parts.model, positive, negative, source, **changes)
    kept = sampled(graph, node.out(0), positive, negative, node.out(1), **changes)
    return graph, free, kept, source


def outside_of(mask, latent):
    """Where a mask is 0 at a latent's size."""
    small = torch.nn.functional.interpolate(mask[:, None], latent.shape[2:], mode="bilinear")
    return (small == 0).expand_as(latent)


def latents(comfy, graph, *links):
    return [value["samples"] for value in comfy.values(graph, *links)]


def edited_by_loop(comfy, image, mask, every):
    """Eq. 1 as an explicit loop of Euler steps over ComfyUI's guided prediction."""
    from comfy.sample import prepare_noise
    from comfy.samplers import CFGGuider, Sampler, calculate_sigmas

    graph = comfy.graph()
    parts = Parts(graph)
    pixels = comfy.give(graph, image)
    positive, negative, _ = conditioned(graph, parts, pixels)
    model, positive, negative, source = comfy.values(
        graph, parts.model, positive, negative, encoded(graph, parts, pixels)
    )
    noise = prepare_noise(source["samples"], SEED)
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    small = torch.nn.functional.interpolate(mask[:, None], source["samples"].shape[2:], mode="bilinear")

    class Loop(Sampler):
        def sample(
            self,
            model_wrap,
            sigmas,
            extra_args,
            callback,
            noise,
            latent_image=None,
            *_,
        ):
            first = self.max_denoise(model_wrap, sigmas)
            state = model_wrap.inner_model.model_sampling.noise_scaling(
                sigmas[0], noise.clone(), latent_image, first
            )
            for index, (now, then) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
                clean = model_wrap(state, now.expand(len(state)), **extra_args)
                state = state + (state - clean) / now * (then - now)
                if (len(sigmas) - 2 - index) % every == 0:
                    inside = small.to(state.device)
                    state = (1 - inside) * (latent_image + then * noise) + inside * state
            return state

    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(2.0)
    return guider.sample(noise, source["samples"], Loop(), sigmas, seed=SEED).cpu()


@pytest.mark.parametrize("every", [1, 2, 3])
def test_matches_an_explicit_loop_of_eq_1(comfy, every):
    image, mask = make_image(1, 2), disc()
    graph, free, kept, _ = region_edit(comfy, image, mask, every)
    made, without = latents(comfy, graph, kept, free)
    torch.testing.assert_close(made, edited_by_loop(comfy, image, mask, every), rtol=0, atol=1e-4)
    assert not torch.allclose(made, without, atol=0.05)


@pytest.mark.parametrize(
    "sampler", ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "lcm", "uni_pc"]
)
def test_a_mask_of_ones_edits_freely_and_of_zeros_keeps_the_source(comfy, sampler):
    image = make_image(2)
    graph, free, kept, source = region_edit(comfy, image, torch.ones(1, 64, 64), sampler_name=sampler)
    made, without, began = latents(comfy, graph, kept, free, source)
    assert torch.equal(made, without) and not torch.allclose(made, began, atol=0.1)
    graph, _, kept, source = region_edit(comfy, image, torch.zeros(1, 64, 64), sampler_name=sampler)
    made, began = latents(comfy, graph, kept, source)
    torch.testing.assert_close(made, began, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde"])
def test_keeps_the_source_outside_with_every_sampler(comfy, sampler):
    image, mask = make_image(3), disc(radius=0.2)
    graph, free, kept, source = region_edit(comfy, image, mask, sampler_name=sampler)
    made, without, began = latents(comfy, graph, kept, free, source)
    outside = outside_of(mask, made)
    torch.testing.assert_close(made[outside], began[outside], rtol=0, atol=1e-6)
    assert (made - began)[~outside].abs().mean() > 0.1 and (without - began)[outside].abs().mean() > 0.1


def test_a_mask_of_one_half_averages_when_only_the_last_step_blends(comfy):
    graph, free, kept, source = region_edit(comfy, make_image(4), torch.full((1, 64, 64), 0.5), every=STEPS)
    made, without, began = latents(comfy, graph, kept, free, source)
    torch.testing.assert_close(made, 0.5 * without + 0.5 * began, rtol=0, atol=1e-5)


def test_uses_a_mask_for_each_image(comfy):
    image = make_image(5, 3)
    masks = torch.cat([disc(x=0.25), disc(x=0.75), disc(y=0.25)])
    graph, _, kept, _ = region_edit(comfy, image, masks)
    together = latents(comfy, graph, kept)[0]
    graph, _, kept, _ = region_edit(comfy, image, masks[:1])
    torch.testing.assert_close(together[:1], latents(comfy, graph, kept)[0][:1], rtol=0, atol=1e-5)
    outside = outside_of(masks, together)
    graph, _, _, source = region_edit(comfy, image, masks)
    began = latents(comfy, graph, source)[0]
    torch.testing.assert_close(together[outside], began[outside], rtol=0, atol=1e-6)


def test_pastes_back_images_that_were_cropped(comfy):
    image = make_image(6, 1, 70, 77)
    mask = disc(70, 77, radius=0.25)
    graph = comfy.graph()
    parts = Parts(graph)
    pixels = comfy.give(graph, image)
    positive, negative, _ = conditioned(graph, parts, pixels)
    node = graph.node(
        "InstructBrushRegionEdit",
        model=parts.model,
        latent=encoded(graph, parts, pixels),
        mask=comfy.give(graph, mask),
        blend_every=2,
    )
    made = graph.node(
        "VAEDecode", samples=sampled(graph, node.out(0), positive, negative, node.out(1)), vae=parts.vae
    ).out(0)
    whole = graph.node(
        "InstructBrushPasteBack", edited=made, original=pixels, mask=comfy.give(graph, mask), feather=0
    ).out(0)
    pasted = comfy.values(graph, whole)[0]
    assert pasted.shape == image.shape
    assert torch.equal(pasted[mask == 0], image[mask == 0]) and not torch.allclose(
        pasted[mask == 1], image[mask == 1], atol=0.02
    )


def test_a_learned_instruction_acts_only_in_the_region(comfy):
    image, mask = make_image(7), disc(radius=0.25)
    graph = comfy.graph()
    parts = Parts(graph)
    pixels = comfy.give(graph, image)
    positive, negative, _ = conditioned(graph, parts, pixels)
    source = encoded(graph, parts, pixels)
    model, positive = applied(graph, comfy, parts.model, positive, instruction(comfy, scale=0.5))
    node = graph.node(
        "InstructBrushRegionEdit", model=model, latent=source, mask=comfy.give(graph, mask), blend_every=2
    )
    made, began = latents(comfy, graph, sampled(graph, node.out(0), positive, negative, node.out(1)), source)
    outside = outside_of(mask, made)
    torch.testing.assert_close(made[outside], began[outside], rtol=0, atol=1e-6)
    assert (made - began)[~outside].abs().mean() > 0.1


def test_edit_guider_keeps_the_region(comfy):
    image, mask = make_image(8), disc(radius=0.25)
    graph = comfy.graph()
    parts = Parts(graph)
    pixels = comfy.give(graph, image)
    source = encoded(graph, parts, pixels)
    node = graph.node(
        "InstructBrushRegionEdit",
        model=parts.model,
        latent=source,
        mask=comfy.give(graph, mask),
        blend_every=2,
    )
    guider = graph.node(
        "InstructBrushEditGuider",
        model=node.out(0),
        clip=parts.clip,
        vae=parts.vae,
        image=pixels,
        words="make it night",
        text_scale=2.0,
        image_scale=1.5,
        strength=1.0,
    )
    noise = graph.node("RandomNoise", noise_seed=SEED).out(0)
    sampler = graph.node("KSamplerSelect", sampler_name="euler_ancestral").out(0)
    sigmas = graph.node(
        "BasicScheduler", model=node.out(0), scheduler="normal", steps=STEPS, denoise=1.0
    ).out(0)
    made = graph.node(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider.out(0),
        sampler=sampler,
        sigmas=sigmas,
        latent_image=node.out(1),
    ).out(0)
    edited, began = latents(comfy, graph, made, source)
    outside = outside_of(mask, edited)
    torch.testing.assert_close(edited[outside], began[outside], rtol=0, atol=1e-6)
    assert (edited - began)[~outside].abs().mean() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "LATENT is empty"),
        ({"mask": torch.ones(1, 64, 32)}, "32 x 64"),
        ({"mask": torch.ones(2, 64, 64)}, "2 masks"),
        ({"mask": torch.full((1, 64, 64), float("nan"))}, "not finite"),
    ],
)
def test_rejects_inputs_that_do_not_fit(comfy, change, message):
    graph = comfy.graph()
    parts = Parts(graph)
    pixels = comfy.give(graph, make_image(9))
    inputs = {"latent": encoded(graph, parts, pixels), "mask": comfy.give(graph, torch.ones(1, 64, 64))}
    inputs |= {name: comfy.give(graph, value) for name, value in change.items()}
    node = graph.node("InstructBrushRegionEdit", model=parts.model, blend_every=2, **inputs)
    graph.node("PreviewAny", source=node.out(1))
    assert message in comfy.error(graph)


def test_accepts_a_black_mask_of_the_images_size(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    latent = encoded(graph, parts, comfy.give(graph, make_image(9)))
    mask = comfy.give(graph, torch.zeros(1, 64, 64))
    node = graph.node("InstructBrushRegionEdit", model=parts.model, latent=latent, mask=mask, blend_every=2)
    assert not comfy.values(graph, node.out(1))[0]["noise_mask"].any()


UNPAINTED = (
    "Mask: no mask was painted. It is the black one of 64 x 64 that Load Image gives for an image without "
    "transparency; this image is 128 x {}. "
)


@pytest.mark.parametrize("height", [128, 192])
def test_all_editing_nodes_recognize_the_default_mask_of_load_image(comfy, height):
    graph = comfy.graph()
    parts = Parts(graph, "pocket region editor (built in)")
    pixels = comfy.give(graph, make_image(9, 1, height, 128))
    mask = comfy.give(graph, torch.zeros(1, 64, 64))
    words = graph.node("CLIPTextEncode", clip=parts.clip, text="make it night").out(0)
    soft = graph.node("InstructBrushSoftRegion", mask=mask, s=0.5).out(0)
    with_words = {
        "model": parts.model,
        "clip": parts.clip,
        "vae": parts.vae,
        "image": pixels,
        "words": "x",
        "text_scale": 2.0,
        "image_scale": 1.5,
    }
    for node in (
        graph.node(
            "InstructBrushRegionEdit",
            model=parts.model,
            latent=encoded(graph, parts, pixels),
            mask=mask,
            blend_every=2,
        ),
        graph.node(
            "InstructBrushRegionEdit",
            model=parts.model,
            latent=encoded(graph, parts, pixels),
            mask=soft,
            blend_every=2,
        ),
        graph.node(
            "InstructBrushRegionConditioning",
            model=parts.model,
            conditioning=words,
            vae=parts.vae,
            image=pixels,
            mask=mask,
        ),
        graph.node("InstructBrushEditGuider", **with_words, strength=1.0, mask=mask),
        graph.node("InstructBrushPasteBack", edited=pixels, original=pixels, mask=mask, feather=0),
    ):
        assert comfy.error(graph, node.out(0)).startswith(UNPAINTED.format(height))


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (128, 128), (1024, 1536)])
def test_scales_masks_of_another_resolution(comfy, rows, columns):
    # A 3:2 image of width 100 has 66 or 67 rows; the VAE keeps 64 rows and 96 columns.
    height = 64 if rows == columns else 67
    width = 64 if rows == columns else 100
    graph = comfy.graph()
    parts = Parts(graph)
    latent = encoded(graph, parts, comfy.give(graph, make_image(12, 1, height, width)))
    mask = torch.zeros(1, rows, columns)
    mask[..., : columns // 2] = 1
    node = graph.node(
        "InstructBrushRegionEdit",
        model=parts.model,
        latent=latent,
        mask=comfy.give(graph, mask),
        blend_every=2,
    )
    kept = comfy.values(graph, node.out(1))[0]["noise_mask"]
    half = kept.shape[-1] // 2
    assert (
        kept.shape == (1, 1, 64, width // 8 * 8)
        and (kept[..., : half - 1] == 1).all()
        and not kept[..., half + 1 :].any()
    )


def test_crops_masks_as_vaes_with_larger_pixels_do(comfy):
    """A VAE of stride 32 makes 16 x 16 of 543 x 512 pixels, whose upper 15 rows it cuts off."""
    graph = comfy.graph()
    mask = torch.zeros(1, 543, 512)
    mask[:, : 15 + 256] = 1
    node = graph.node(
        "InstructBrushRegionEdit",
        model=Parts(graph).model,
        latent=comfy.give(graph, {"samples": torch.ones(1, 4, 16, 16)}),
        mask=comfy.give(graph, mask),
        blend_every=2,
    )
    kept = comfy.values(graph, node.out(1))[0]["noise_mask"]
    assert kept.shape == (1, 1, 512, 512) and kept[..., :256, :].all() and not kept[..., 256:, :].any()


def test_tells_when_the_latent_is_not_connected(comfy):
    graph = comfy.graph()
    parts = Parts(graph)
    pixels = comfy.give(graph, make_image(10))
    positive, negative, latent = conditioned(graph, parts, pixels)
    source = encoded(graph, parts, pixels)
    node = graph.node(
        "InstructBrushRegionEdit",
        model=parts.model,
        latent=source,
        mask=comfy.give(graph, disc()),
        blend_every=2,
    )
    graph.node("VAEDecode", samples=sampled(graph, node.out(0), positive, negative, latent), vae=parts.vae)
    graph.node(
        "PreviewImage",
        images=graph.node(
            "VAEDecode", samples=sampled(graph, node.out(0), positive, negative, latent), vae=parts.vae
        ).out(0),
    )
    assert "its MODEL reached the sampler but its LATENT did not" in comfy.error(graph)


def test_decodes_to_images(comfy):
    graph, _, kept, _ = region_edit(comfy, make_image(11), disc())
    parts = Parts(graph)
    assert images_of(comfy, graph, parts, kept).shape == (1, 64, 64, 3)
