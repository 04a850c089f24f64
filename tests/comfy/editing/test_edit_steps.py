"""Edit by Steps and Pick from List in a real ComfyUI: chain, cache, lists, regions, rejected input."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from instructbrush.tests.comfy.graphs import MODEL_NAME, Parts, make_image
from instructbrush.tools.pocket.wishes.wishes import sample_wish

STEPS = 2
REGION_MODEL = "pocket region editor (built in)"


class Steps:
    """A graph with Edit by Steps."""

    def __init__(self, comfy, image, edits, finder=False, model=MODEL_NAME, **changes):
        self.comfy = comfy
        self.graph = comfy.graph()
        self.parts = Parts(self.graph, model)
        self.image = image(self.graph) if callable(image) else comfy.give(self.graph, image)
        self.noise = self.graph.node("RandomNoise", noise_seed=3).out(0)
        self.sampler = self.graph.node("KSamplerSelect", sampler_name="euler").out(0)
        self.sigmas = self.graph.node(
            "BasicScheduler", model=self.parts.model, scheduler="normal", steps=STEPS, denoise=1.0
        ).out(0)
        if finder:
            loader = self.graph.node(
                "InstructBrushLoadRegionFinder",
                finder_name="pocket finder (built in)",
                sam_name=comfy.pack("nodes.comfy.encoders.finders").sam_names()[0],
            )
            changes["finder"] = loader.out(0)
        self.node = self.graph.node(
            "InstructBrushEditBySteps",
            model=self.parts.model,
            clip=self.parts.clip,
            vae=self.parts.vae,
            image=self.image,
            edits=edits(self.graph) if callable(edits) else edits,
            noise=self.noise,
            sampler=self.sampler,
            sigmas=self.sigmas,
            **{"max_steps": 4, "text_scale": 2.0, "image_scale": 1.5, **changes},
        )

    def single(self, image, words):
        """Adds one edit by the nodes that a user would wire."""
        guider = self.graph.node(
            "InstructBrushEditGuider",
            model=self.parts.model,
            clip=self.parts.clip,
            vae=self.parts.vae,
            image=image,
            words=words,
            text_scale=2.0,
            image_scale=1.5,
            strength=1.0,
        )
        sampled = self.graph.node(
            "SamplerCustomAdvanced",
            noise=self.noise,
            guider=guider.out(0),
            sampler=self.sampler,
            sigmas=self.sigmas,
            latent_image=guider.out(1),
        )
        return self.graph.node("VAEDecode", samples=sampled.out(0), vae=self.parts.vae).out(0)

    def run(self):
        return self.comfy.run(self.graph, *(self.node.out(place) for place in range(3)))


def scene(kind="traffic_light", seed=4):
    """A drawn scene of the pocket world [1, 128, 128, 3], with its wish."""
    wish = sample_wish(np.random.default_rng(seed), kind)
    return torch.from_numpy(wish.before)[None], wish


def test_steps_equal_edits_that_are_wired_by_hand(comfy):
    steps = Steps(comfy, make_image(1), "1. make it night\n2. add snow")
    first = steps.single(steps.image, "make it night")
    second = steps.single(first, "add snow")
    values = comfy.values(steps.graph, *(steps.node.out(place) for place in range(3)), first, second)
    edited, batch, report, by_hand_1, by_hand_2 = values
    assert torch.equal(edited, by_hand_2)
    assert torch.equal(batch, torch.cat([by_hand_1, by_hand_2]))
    assert report == "1. make it night\n2. add snow"


def test_computes_only_new_steps_when_the_edits_change(comfy):
    sys.modules[type(comfy).__module__].SHELF["steps"] = make_image(2)
    lines = ["make it night", "add snow", "make it sepia"]

    def run(count, most):
        edits = "\n".join(lines[:count])
        run = Steps(
            comfy, lambda graph: graph.node("TestGive", key="steps").out(0), edits, max_steps=most
        ).run()
        finished = [each for each in run.data("progress") if each["value"] == each["max"] == STEPS]
        return len(finished), run.values[1]

    comfy.forget()
    computed, two = run(2, 4)
    assert computed == 2
    computed, three = run(3, 4)
    assert computed == 1
    assert len(three) == 3 and torch.equal(three[:2], two)
    computed, one = run(3, 1)
    assert computed == 0
    assert torch.equal(one, two[:1])


class GiveList:
    """A node that outputs a list."""

    lists: tuple[list[Any], ...] = ()
    INPUT_TYPES = classmethod(lambda cls: {"required": {"place": ("INT", {})}})
    RETURN_TYPES = ("*",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "give"

    def give(self, place: int) -> tuple[list[Any]]:
        return (self.lists[place],)


class SeeLists:
    """A node that stores the lists that reach it."""

    seen: dict[str, list[Any]] = {}
    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("IMAGE",), "steps": ("IMAGE",)}})
    RETURN_TYPES = ("INT",)
    INPUT_IS_LIST = True
    FUNCTION = "see"

    def see(self, **lists: list[Any]) -> tuple[int]:
        type(self).seen = lists
        return (0,)


@pytest.fixture
def lists(comfy) -> Iterator[None]:
    """The nodes above."""
    comfy.nodes.update(TestGiveList=GiveList, TestSeeLists=SeeLists)
    yield
    del comfy.nodes["TestGiveList"], comfy.nodes["TestSeeLists"]


def given(place):
    return lambda graph: graph.node("TestGiveList", place=place).out(0)


def test_each_image_of_a_list_gets_its_own_edits(comfy, lists):
    images = [make_image(3), make_image(4)]
    texts = ["make it night", "make it sepia\nadd snow"]
    GiveList.lists = images, texts
    steps = Steps(comfy, given(0), given(1))
    seen = steps.graph.node("TestSeeLists", image=steps.node.out(0), steps=steps.node.out(1))
    comfy.values(steps.graph, seen.out(0))
    assert [len(batch) for batch in SeeLists.seen["steps"]] == [1, 2]
    for image, text, edited in zip(images, texts, SeeLists.seen["image"], strict=True):
        alone = Steps(comfy, image, text).run().values[0]
        torch.testing.assert_close(edited, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", [MODEL_NAME, REGION_MODEL])
def test_each_step_edits_only_its_region(comfy, model):
    image, wish = scene()
    shape = wish.scene.things[0].shape
    edits = f"make the {shape} black\nmake the picture warmer | {shape}"
    steps = Steps(comfy, image, edits, finder=True, model=model, grow=0)
    run = steps.run()
    edited, batch, report = run.values
    changed = (edited - image).abs().amax(-1)[0] > 1e-6
    assert 0.01 < changed.float().mean() < 0.5
    assert len(batch) == 2
    assert f"Edited: {shape} (decided by the grammar)." in report
    assert f"Edited: {shape} (named by you)." in report
    (shown,) = [
        data for data in run.data("executed") if data["display_node"] == steps.node.id and data["output"]
    ]
    assert shown["output"]["text"] == [f"1. make the {shape} black\n2. make the picture warmer | {shape}"]


def test_edits_of_the_whole_image_change_it_everywhere(comfy):
    # Sides that are no multiples of 8: the border that the VAE crops stays as it was.
    image = scene()[0][:, :124, :126]
    edited, _, report = Steps(comfy, image, "make it night", finder=True).run().values
    assert edited.shape == image.shape
    assert ((edited - image).abs().amax(-1) > 1e-4).float().mean() > 0.85
    assert "The whole image: no object is named (decided by the grammar)." in report


def test_says_that_named_regions_need_a_finder(comfy, caplog):
    report = Steps(comfy, make_image(1), "make it night | sky").run().values[2]
    assert report.endswith(
        "Regions are named, but no finder is connected, so each step edits the whole image."
    )
    assert "no finder is connected" in caplog.text


def test_says_what_is_left_out(comfy):
    edits = "make it brighter\nmake it darker\nadd snow\nmake it sepia"
    report = Steps(comfy, make_image(1), edits, max_steps=2).run().values[2]
    assert "'make it darker' contradicts 'make it brighter', so it is left out." in report
    assert "Only the first 2 of 3 edits are used." in report


@pytest.mark.parametrize(
    ("edits", "problem"),
    [
        (" ", "There was no edit in it."),
        ("I'm sorry, I cannot do that.", "It names no edit."),
        ('{"edits": []}', "There was no edit in it."),
    ],
)
def test_rejects_text_without_an_edit(comfy, edits, problem):
    steps = Steps(comfy, make_image(1), edits)
    message = comfy.error(steps.graph, steps.node.out(0))
    assert message.startswith("Edit by Steps: there is nothing to do in ")
    assert problem in message and "Write one edit a line" in message


def test_picks_items_of_a_list(comfy, lists):
    GiveList.lists = (["a", "b", "c"],)
    graph = comfy.graph()
    links = [
        graph.node("InstructBrushPickFromList", items=given(0)(graph), index=place).out(0)
        for place in (0, 2, 9)
    ]
    assert comfy.values(graph, *links) == ["a", "c", "c"]
