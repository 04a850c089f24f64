"""Images that other nodes give: grey, with transparency, without a batch axis; and what is none, at every node that takes images."""

import math

import pytest
import torch

from ..graphs import Parts, half, make_image

GREY = make_image()[..., :1]
NODES = (
    "MakePairs",
    "EditGuider",
    "RegionConditioning",
    "FindRegion",
    "PasteBack",
    "Explain",
    "EncodeInstruction",
    "Evaluate",
)


def node(comfy, name, image):
    """A graph with a node of the pack that takes this image."""
    graph = comfy.graph()
    image = comfy.give(graph, image)
    parts = Parts(graph)
    if name == "MakePairs":
        made = graph.node("InstructBrushMakePairs", before=image, after=image)
    elif name == "EditGuider":
        scales = {"text_scale": 3.0, "image_scale": 1.4, "strength": 1.0}
        made = graph.node(
            "InstructBrushEditGuider",
            model=parts.model,
            clip=parts.clip,
            vae=parts.vae,
            image=image,
            words="make it night",
            **scales,
        )
    elif name == "RegionConditioning":
        parts = Parts(graph, "pocket region editor (built in)")
        words = graph.node("CLIPTextEncode", clip=parts.clip, text="make it night").out(0)
        made = graph.node(
            "InstructBrushRegionConditioning",
            model=parts.model,
            conditioning=words,
            vae=parts.vae,
            image=image,
        )
    elif name == "FindRegion":
        finder = graph.node(
            "InstructBrushLoadRegionFinder", finder_name="pocket finder (built in)", sam_name="sam-vit-base"
        ).out(0)
        made = graph.node(
            "InstructBrushFindRegion",
            image=image,
            finder=finder,
            words="the house",
            box_threshold=-1.0,
            text_threshold=-1.0,
        )
    elif name == "PasteBack":
        made = graph.node(
            "InstructBrushPasteBack", edited=image, original=image, mask=comfy.give(graph, half()), feather=0
        )
    elif name == "Evaluate":
        made = graph.node("InstructBrushEvaluate", edited=image, truth=image)
    else:
        mllm = graph.node(
            "InstructBrushLoadMllm", mllm_name="pocket reader (built in)", precision="auto"
        ).out(0)
        if name == "Explain":
            made = graph.node(
                "InstructBrushExplain", mllm=mllm, image=image, wish="hours later", max_tokens=8
            )
        else:
            clip = Parts(graph, "pocket reasoning editor (built in)").clip
            connector = graph.node(
                "InstructBrushLoadConnector", connector_name="pocket connector (built in)"
            ).out(0)
            made = graph.node(
                "InstructBrushEncodeInstruction",
                mllm=mllm,
                connector=connector,
                clip=clip,
                image=image,
                words="make it night",
            )
    return graph, made.out(0)


@pytest.mark.parametrize("name", NODES)
def test_images_of_any_channels_are_taken(comfy, name):
    for image in (
        GREY,
        torch.cat([make_image(), GREY], dim=-1),
        make_image()[0],
        torch.cat([make_image()] * 2, dim=-1),
    ):
        comfy.run(*node(comfy, name, image))


def test_a_grey_image_is_that_of_three_equal_channels(comfy):
    for name in ("PasteBack", "FindRegion"):
        grey, colours = (
            comfy.values(*node(comfy, name, image))[0] for image in (GREY, torch.cat([GREY] * 3, dim=-1))
        )
        assert torch.equal(grey, colours)


@pytest.mark.parametrize("name", NODES)
def test_what_is_no_image_is_refused_in_one_sentence(comfy, name):
    for image, message in (
        (None, ": images are needed, but NoneType came. Connect an IMAGE."),
        (
            make_image()[:0],
            ": its shape is (0, 64, 64, 3), images have [batch, height, width, 3]. Connect an IMAGE with at least one image.",
        ),
        (
            make_image()[..., :2],
            ": its shape is (1, 64, 64, 2), images have [batch, height, width, 3]. Connect an IMAGE with at least one image.",
        ),
        (
            make_image() * math.nan,
            ": image 1 of 1 holds values that are not finite. Look at what makes it: values run from 0 to 1.",
        ),
        (
            (make_image() * 255).round(),
            ": image 1 of 1 holds values up to 255. Scale them: values run from 0 to 1.",
        ),
    ):
        assert comfy.error(*node(comfy, name, image)).endswith(message)


@pytest.mark.parametrize("name", ["EditGuider", "RegionConditioning"])
def test_images_that_are_too_small_to_encode_are_refused(comfy, name):
    assert (
        comfy.error(*node(comfy, name, make_image(0, 1, 12, 40)))
        == "Image: it is 40 x 12, each side needs at least 16 pixels. Connect a larger image."
    )
