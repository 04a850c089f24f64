"""Unusual images at every node that takes images: grey, with alpha, without a batch axis, invalid."""

import math

import pytest
import torch

from instructbrush.tests.comfy.graphs import Parts, half, make_image

GRAY = make_image()[..., :1]


def make_pairs(comfy, graph, image):
    return graph.node("InstructBrushMakePairs", before=image, after=image)


def edit_guider(comfy, graph, image):
    parts = Parts(graph)
    return graph.node(
        "InstructBrushEditGuider",
        model=parts.model,
        clip=parts.clip,
        vae=parts.vae,
        image=image,
        words="make it night",
        text_scale=3.0,
        image_scale=1.4,
        strength=1.0,
    )


def region_conditioning(comfy, graph, image):
    parts = Parts(graph, "pocket region editor (built in)")
    return graph.node(
        "InstructBrushRegionConditioning",
        model=parts.model,
        conditioning=graph.node("CLIPTextEncode", clip=parts.clip, text="make it night").out(0),
        vae=parts.vae,
        image=image,
    )


def find_region(comfy, graph, image):
    finder = graph.node(
        "InstructBrushLoadRegionFinder", finder_name="pocket finder (built in)", sam_name="sam-vit-base"
    )
    return graph.node(
        "InstructBrushFindRegion",
        image=image,
        finder=finder.out(0),
        words="the house",
        box_threshold=-1.0,
        text_threshold=-1.0,
    )


def paste_back(comfy, graph, image):
    mask = comfy.give(graph, half())
    return graph.node("InstructBrushPasteBack", edited=image, original=image, mask=mask, feather=0)


def evaluate(comfy, graph, image):
    return graph.node("InstructBrushEvaluate", edited=image, truth=image)


def pocket_reader(graph):
    return graph.node("InstructBrushLoadMllm", mllm_name="pocket reader (built in)", precision="auto").out(0)


def explain(comfy, graph, image):
    mllm = pocket_reader(graph)
    return graph.node("InstructBrushExplain", mllm=mllm, image=image, wish="hours later", max_tokens=8)


def encode_instruction(comfy, graph, image):
    connector = graph.node("InstructBrushLoadConnector", connector_name="pocket connector (built in)")
    return graph.node(
        "InstructBrushEncodeInstruction",
        mllm=pocket_reader(graph),
        connector=connector.out(0),
        clip=Parts(graph, "pocket reasoning editor (built in)").clip,
        image=image,
        words="make it night",
    )


NODES = (
    make_pairs,
    edit_guider,
    region_conditioning,
    find_region,
    paste_back,
    explain,
    encode_instruction,
    evaluate,
)


def graph_with(comfy, node, image):
    """A graph with a node that gets this image. Returns it and the node's first output."""
    graph = comfy.graph()
    return graph, node(comfy, graph, comfy.give(graph, image)).out(0)


@pytest.mark.parametrize("node", NODES)
def test_accepts_images_with_any_channels(comfy, node):
    for image in (
        GRAY,
        torch.cat([make_image(), GRAY], dim=-1),
        make_image()[0],
        torch.cat([make_image()] * 2, dim=-1),
    ):
        comfy.run(*graph_with(comfy, node, image))


@pytest.mark.parametrize("node", [paste_back, find_region])
def test_treats_grey_as_three_equal_channels(comfy, node):
    grey = comfy.values(*graph_with(comfy, node, GRAY))[0]
    three_channels = comfy.values(*graph_with(comfy, node, torch.cat([GRAY] * 3, dim=-1)))[0]
    assert torch.equal(grey, three_channels)


@pytest.mark.parametrize("node", NODES)
def test_rejects_invalid_images_with_one_sentence(comfy, node):
    for image, message in (
        ("a text", ": images are needed, not str. Connect an IMAGE."),
        (
            make_image()[:0],
            ": its shape is (0, 64, 64, 3), images have [batch, height, width, 3]."
            " Connect an IMAGE with at least one image.",
        ),
        (
            make_image()[..., :2],
            ": its shape is (1, 64, 64, 2), images have [batch, height, width, 3]."
            " Connect an IMAGE with at least one image.",
        ),
        (
            make_image() * math.nan,
            ": image 1 of 1 holds values that are not finite. Check the node that made it: values run from "
            "0 to 1.",
        ),
        (
            (make_image() * 255).round(),
            ": image 1 of 1 holds values up to 255. Scale them: values run from 0 to 1.",
        ),
    ):
        assert comfy.error(*graph_with(comfy, node, image)).endswith(message)


@pytest.mark.parametrize("node", [edit_guider, region_conditioning])
def test_rejects_images_that_are_too_small_to_encode(comfy, node):
    assert (
        comfy.error(*graph_with(comfy, node, make_image(0, 1, 12, 40)))
        == "Image: it is 40 x 12, each side needs at least 16 pixels. Connect a larger image."
    )
