"""Every kind of image file through Load Edit Pairs, Region Edit and Paste Back."""

import numpy as np
import pytest
from PIL import Image

from instructbrush.tests.comfy.graphs import Parts, conditioned, half, sampled
from instructbrush.tests.support.image_kinds import KINDS, STEP


@pytest.fixture
def folder(comfy):
    """before/ with every kind of file, after/ with what they show as plain PNG; and the pixels themselves, as
    they come out: 20 x 24 cropped to 16 x 24."""
    home, expected = comfy.base / "input" / "kinds", []
    for side in ("before", "after"):
        (home / side).mkdir(parents=True, exist_ok=True)
    for number, (name, write) in enumerate(KINDS.items()):
        pixels = write(home / "before" / f"{number:02} {name}")
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(
            home / "after" / f"{number:02} {name.rpartition('.')[0]}.png"
        )
        expected.append(pixels[2:18])
    return "kinds", expected


def test_load_edit_pairs_returns_the_right_pixels(comfy, folder):
    name, expected = folder
    graph = comfy.graph()
    (pairs,) = comfy.values(graph, graph.node("InstructBrushLoadPairs", folder=name, size=0).out(0))
    for kind, pair, pixels in zip(KINDS, pairs, expected, strict=True):
        assert np.abs(pair.before.numpy() - pixels).max() <= STEP, kind


def test_keeps_pixels_outside_the_region_for_every_kind(comfy, folder):
    name, expected = folder
    graph = comfy.graph()
    parts = Parts(graph)
    loaded = graph.node("InstructBrushLoadPairs", folder=name, size=0)
    before, after = loaded.out(1), loaded.out(2)
    mask = comfy.give(graph, half(16, 24))
    positive, negative, _ = conditioned(graph, parts, before)
    latent = graph.node("VAEEncode", pixels=before, vae=parts.vae).out(0)
    region = graph.node("InstructBrushRegionEdit", model=parts.model, latent=latent, mask=mask, blend_every=1)
    edited = graph.node(
        "VAEDecode",
        samples=sampled(graph, region.out(0), positive, negative, region.out(1), steps=1),
        vae=parts.vae,
    ).out(0)
    pasted = graph.node("InstructBrushPasteBack", edited=edited, original=before, mask=mask, feather=0).out(0)
    (results,) = comfy.values(graph, graph.node("InstructBrushMakePairs", before=pasted, after=after).out(0))
    outside = half(16, 24)[0].numpy() == 0
    for kind, result, pixels in zip(KINDS, results, expected, strict=True):
        difference = np.abs(result.before.numpy() - pixels)
        assert difference[outside].max() <= STEP < difference[~outside].max(), kind
