"""Encode Instruction in a real ComfyUI: conditionings for stock and own nodes, the cache, rejected input."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import (
    Parts,
    applied,
    conditioned,
    half,
    images_of,
    instruction,
    make_image,
    sampled,
)
from instructbrush.tests.comfy.reasoning.reasoning_graphs import (
    WISH,
    clip_encode,
    encode,
    load_mllm,
    make_connector,
)


def test_untrained_connector_equals_clip_text_encode(comfy, models, states_folder):
    graph = comfy.graph()
    parts = Parts(graph)
    connector = comfy.give(graph, make_connector(comfy, models.mllm_folder, trained=False))
    encoded, plain = comfy.values(
        graph,
        encode(comfy, graph, parts, make_image(1), connector=connector),
        clip_encode(graph, parts, WISH),
    )
    assert torch.equal(encoded[0][0], plain[0][0])
    assert encoded[0][1].keys() == plain[0][1].keys()


def test_empty_words_equal_clip_text_encode(comfy, states_folder):
    graph = comfy.graph()
    parts = Parts(graph)
    encoded, plain = comfy.values(
        graph, encode(comfy, graph, parts, make_image(1, 3), " "), clip_encode(graph, parts, " ")
    )
    assert torch.equal(encoded[0][0], plain[0][0])
    assert not states_folder.exists()


def test_every_image_of_a_batch_gets_its_own_states(comfy, models, states_folder):
    images = make_image(1, 3)
    graph = comfy.graph()
    parts = Parts(graph)
    encoded, plain = comfy.values(graph, encode(comfy, graph, parts, images), clip_encode(graph, parts, WISH))
    mllm = comfy.pack("core.encoders.mllm").load_mllm(models.mllm_folder)
    connector = comfy.pack("core.reasoning.connector").load_connector(models.connector_file)
    expected = connector.encode(plain[0][0], *mllm.states(list(images), [WISH] * 3))
    assert encoded[0][0].shape == (3, *plain[0][0].shape[1:])
    assert (encoded[0][0][0] - encoded[0][0][1]).abs().max() > 1e-3
    torch.testing.assert_close(encoded[0][0], expected, rtol=0, atol=1e-4)
    assert len(list(states_folder.glob("*.safetensors"))) == 3


def test_takes_states_from_the_cache_without_the_model(comfy, states_folder):
    graph = comfy.graph()
    (first,) = comfy.values(graph, encode(comfy, graph, Parts(graph), make_image(2)))
    comfy.forget()
    graph = comfy.graph()
    link = load_mllm(graph)
    again, mllm = comfy.values(graph, encode(comfy, graph, Parts(graph), make_image(2), mllm=link), link)
    assert torch.equal(again[0][0], first[0][0])
    assert not mllm.loaded


def test_stock_nodes_edit_each_image_with_its_own_states(comfy, states_folder):
    def edit(encoded_images, images):
        graph = comfy.graph()
        parts = Parts(graph)
        node = graph.node(
            "InstructPixToPixConditioning",
            positive=encode(comfy, graph, parts, encoded_images),
            negative=clip_encode(graph, parts, ""),
            vae=parts.vae,
            pixels=comfy.give(graph, images),
        )
        latent = sampled(graph, parts.model, node.out(0), node.out(1), node.out(2))
        return images_of(comfy, graph, parts, latent)

    images = make_image(3, 2)
    edited = edit(images, images)
    assert edited.shape == images.shape
    assert edited.isfinite().all()
    with_states_of_the_first = edit(images[[0, 0]], images)
    torch.testing.assert_close(edited[0], with_states_of_the_first[0], rtol=0, atol=2e-3)
    assert (edited[1] - with_states_of_the_first[1]).abs().max() > 0.02


def test_works_with_edit_guider(comfy, states_folder):
    graph = comfy.graph()
    parts = Parts(graph)
    image = make_image(1, 2)
    guider = graph.node(
        "InstructBrushEditGuider",
        model=parts.model,
        clip=parts.clip,
        vae=parts.vae,
        image=comfy.give(graph, image),
        words="",
        text_scale=2.0,
        image_scale=1.5,
        strength=1.0,
        conditioning=encode(comfy, graph, parts, image),
    )
    latent = graph.node(
        "SamplerCustomAdvanced",
        noise=graph.node("RandomNoise", noise_seed=1).out(0),
        guider=guider.out(0),
        sampler=graph.node("KSamplerSelect", sampler_name="euler_ancestral").out(0),
        sigmas=graph.node("BasicScheduler", model=parts.model, scheduler="normal", steps=2, denoise=1.0).out(
            0
        ),
        latent_image=guider.out(1),
    ).out(0)
    assert images_of(comfy, graph, parts, latent).shape == image.shape


def test_works_with_regions_and_learned_instructions(comfy, states_folder):
    graph = comfy.graph()
    parts = Parts(graph)
    image = make_image(1, 2)
    _, negative, empty_latent = conditioned(graph, parts, comfy.give(graph, image))
    regions = graph.node(
        "InstructBrushCombineRegions",
        conditioning_1=encode(comfy, graph, parts, image),
        mask_1=comfy.give(graph, half()),
        conditioning_2=clip_encode(graph, parts, "add snow"),
        mask_2=comfy.give(graph, 1 - half()),
    ).out(0)
    positive = graph.node(
        "InstructPixToPixConditioning",
        positive=regions,
        negative=negative,
        vae=parts.vae,
        pixels=comfy.give(graph, image),
    ).out(0)
    model, positive = applied(graph, comfy, parts.model, positive, instruction(comfy), strength=0.5)
    latent = sampled(graph, model, positive, negative, empty_latent, steps=2)
    found = images_of(comfy, graph, parts, latent)
    assert found.shape == image.shape
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image": make_image(1, 1, 4, 64)},
            "MLLM 'tiny': an image of shape [4, 64, 3] does not fit; "
            "[height, width, 3] with sides from 8 is needed.",
        ),
        ({"image": make_image(1) * float("nan")}, "Image: image 1 of 1 holds values that are not finite."),
        ({"words": "hours " * 500}, "tokens long; it reads 2048. Use fewer words."),
    ],
)
def test_rejects_bad_images_and_long_words(comfy, states_folder, changes, message):
    graph = comfy.graph()
    inputs = {"image": make_image(1), **changes}
    assert message in comfy.error(graph, encode(comfy, graph, Parts(graph), **inputs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text_width": 64},
            "Encode Instruction: CLIP gives text states 128 wide, the connector was trained for 64 (pocket).",
        ),
        (
            {"queries": 40},
            "Connector: text states of shape [1, 32, 128] do not fit; [batch, 40 or more, 128] is needed.",
        ),
        (
            {"mllm_width": 20, "mllm_name": "llava"},
            "Encode Instruction: 'tiny' has states 48 wide, the connector was trained with llava (20). "
            "Load that MLLM, or a connector for this one.",
        ),
    ],
)
def test_rejects_connectors_of_other_widths(comfy, states_folder, changes, message):
    connectors = comfy.pack("core.reasoning.connector")
    fields = {"family": "pocket", "text_width": 128, "mllm_width": 48, "heads": 4, "layers": 1, **changes}
    connector = connectors.new_connector(connectors.ConnectorConfig(**fields)).eval()
    graph = comfy.graph()
    link = comfy.give(graph, connector)
    assert message in comfy.error(graph, encode(comfy, graph, Parts(graph), make_image(1), connector=link))


def test_warns_about_connectors_of_other_models(comfy, models, states_folder, caplog):
    connector = make_connector(comfy, models.mllm_folder, mllm_fingerprint="aa", text_fingerprint="bb")
    graph = comfy.graph()
    link = comfy.give(graph, connector)
    comfy.values(graph, encode(comfy, graph, Parts(graph), make_image(1), connector=link))
    assert "another MLLM (tiny) than the one that is connected" in caplog.text
    assert "another CLIP than the one that is connected" in caplog.text


def test_does_not_warn_about_the_models_it_was_trained_with(comfy, states_folder, caplog):
    graph = comfy.graph()
    comfy.values(graph, encode(comfy, graph, Parts(graph), make_image(1)))
    assert "The connector was trained with" not in caplog.text
