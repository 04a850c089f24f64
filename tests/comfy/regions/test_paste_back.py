"""Paste Back in a real ComfyUI."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import Parts, make_image
from instructbrush.tests.comfy.regions.region_graphs import (
    left_mask,
)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (71, 66)])
def test_undoes_the_vaes_changes_outside_the_mask(comfy, height, width):
    original = make_image(3, 2, height, width)
    mask = torch.zeros(2, height, width)
    mask[0, 20:40, 20:40] = 1
    mask[1, :, : width // 2] = 1
    graph = comfy.graph()
    parts = Parts(graph)
    pixels = comfy.give(graph, original)
    latent = graph.node("VAEEncode", pixels=pixels, vae=parts.vae).out(0)
    edited = graph.node("VAEDecode", samples=latent, vae=parts.vae).out(0)
    node = graph.node(
        "InstructBrushPasteBack", edited=edited, original=pixels, mask=comfy.give(graph, mask), feather=0
    )
    pasted, decoded = comfy.values(graph, node.out(0), edited)
    top, left = height % 8 // 2, width % 8 // 2
    rows, columns = decoded.shape[1:3]
    full = original.clone()
    full[:, top : top + rows, left : left + columns] = decoded
    assert pasted.shape == original.shape
    assert torch.equal(pasted, torch.where(mask[..., None] == 1, full, original)) and not torch.equal(
        pasted, original
    )
    # The decoded crop resembles the original in place, so nothing has moved.
    assert (full - original).abs().mean() < 0.1


def test_feathers_and_repeats_a_single_mask(comfy):
    graph = comfy.graph()
    edited = torch.ones(3, 64, 64, 3)
    original = torch.zeros(1, 64, 64, 3)
    node = graph.node(
        "InstructBrushPasteBack",
        edited=comfy.give(graph, edited),
        original=comfy.give(graph, original),
        mask=comfy.give(graph, left_mask()[0]),
        feather=1,
    )
    pasted = comfy.values(graph, node.out(0))[0]
    assert (
        pasted.shape == (3, 64, 64, 3)
        and (pasted[:, :, :31] == 1).all()
        and (pasted[:, :, 31] == 0.5).all()
        and not pasted[:, :, 32:].any()
    )


@pytest.mark.parametrize("channels", [3, 4])
def test_keeps_the_originals_transparency(comfy, channels):
    graph = comfy.graph()
    original = torch.cat([make_image(0), make_image(1)[..., :1]], dim=-1)
    edited = torch.cat([make_image(2), make_image(3)[..., :1]], dim=-1)[..., :channels]
    node = graph.node(
        "InstructBrushPasteBack",
        edited=comfy.give(graph, edited),
        original=comfy.give(graph, original),
        mask=comfy.give(graph, left_mask()),
        feather=0,
    )
    pasted = comfy.values(graph, node.out(0))[0]
    assert torch.equal(pasted[..., 3], original[..., 3])
    assert torch.equal(pasted[:, :, :32, :3], edited[:, :, :32, :3]) and torch.equal(
        pasted[:, :, 32:], original[:, :, 32:]
    )


@pytest.mark.parametrize(
    ("edited", "original", "mask", "message"),
    [
        (
            make_image(0, 1, 64, 64),
            make_image(0, 1, 100, 64),
            torch.ones(1, 100, 64),
            "Paste back: the edited image is 64 x 64, the original 64 x 100.",
        ),
        (
            make_image(0, 2),
            make_image(0, 3),
            torch.ones(1, 64, 64),
            "Paste back: 2 edited images but 3 originals. Give the original of each, or one for all.",
        ),
        (
            make_image(0, 2),
            make_image(0, 2),
            torch.ones(3, 64, 64),
            "Mask: 3 masks do not fit 2 images. Give one for each image, or one for all.",
        ),
        (
            make_image(0, 1),
            make_image(0, 1),
            torch.ones(1, 64, 32),
            "Mask: it is 32 x 64, the image 64 x 64, which is another aspect ratio.",
        ),
    ],
)
def test_rejects_images_that_do_not_match(comfy, edited, original, mask, message):
    graph = comfy.graph()
    node = graph.node(
        "InstructBrushPasteBack",
        edited=comfy.give(graph, edited),
        original=comfy.give(graph, original),
        mask=comfy.give(graph, mask),
        feather=0,
    )
    assert comfy.error(graph, node.out(0)).startswith(message)
