"""Apply Instruction with ComfyUI's masks, areas, timestep ranges, batches and long texts."""

import pytest
import torch

from instructbrush.tests.comfy.graphs import Parts, applied, conditioned, instruction, make_image, sampled

STEPS = 3
SPACES = pytest.mark.parametrize("space", ["attention", "adapter"])


class Chain:
    """A graph that edits one image with stock nodes. Tests change its model and conditionings."""

    def __init__(self, comfy, count=1, size=64):
        self.comfy, self.graph = comfy, comfy.graph()
        self.parts = Parts(self.graph)
        self.model = self.parts.model
        self.positive, self.negative, self.latent = conditioned(
            self.graph, self.parts, comfy.give(self.graph, make_image(0, count, size, size))
        )

    def apply(self, learned, **changes):
        self.model, self.positive = applied(
            self.graph, self.comfy, self.model, self.positive, learned, **changes
        )
        return self

    def branch(self, learned, **changes):
        """MODEL and CONDITIONING with an instruction. Does not change the chain."""
        return applied(self.graph, self.comfy, self.model, self.positive, learned, **changes)

    def node(self, class_type, **inputs):
        return self.graph.node(class_type, **inputs)

    def give(self, value):
        return self.comfy.give(self.graph, value)

    def sample(self, **changes):
        link = sampled(
            self.graph, self.model, self.positive, self.negative, self.latent, **{"steps": STEPS, **changes}
        )
        return self.comfy.values(self.graph, link)[0]["samples"]

    def error(self):
        return self.comfy.error(
            self.graph,
            sampled(self.graph, self.model, self.positive, self.negative, self.latent, steps=STEPS),
        )


def left_mask(value=1.0, side=64):
    mask = torch.zeros(1, side, side)
    mask[:, :, : side // 2] = value
    return mask


def close(first, second, tolerance=2e-5):
    return torch.allclose(first, second, atol=tolerance * second.abs().max().item())


def test_rejects_the_conditioning_without_the_model(comfy):
    chain = Chain(comfy)
    patched_model, chain.positive = chain.branch(instruction(comfy))
    assert chain.error() == (
        "Apply Instruction: its CONDITIONING reached the sampler but its MODEL did not, so the instruction "
        "would do nothing. "
        "Connect the MODEL output of Apply Instruction to the sampler or guider."
    )
    # The same CONDITIONING, cached, works once the MODEL is wired.
    chain.model = patched_model
    assert torch.isfinite(chain.sample()).all()


def test_keeps_no_copy_for_the_device_after_sampling(comfy, monkeypatch):
    """ComfyUI keeps the CONDITIONING, and cannot move what is in it off the device."""
    module = comfy.pack("nodes.comfy.sampling.instruction_patch")
    fetched = []
    fetch = module.AttachedInstruction.fetch

    def noted(attached, device):
        fetched.append(attached)
        return fetch(attached, device)

    monkeypatch.setattr(module.AttachedInstruction, "fetch", noted)
    Chain(comfy).apply(instruction(comfy)).sample()
    assert fetched and not any(attached._copies for attached in fetched)


@SPACES
def test_strength_mixes_words_and_instruction(comfy, space):
    words, whole = Chain(comfy).sample(), Chain(comfy).apply(instruction(comfy, space=space)).sample()
    nearly_words = Chain(comfy).apply(instruction(comfy, space=space), strength=1e-4).sample()
    nearly_whole = Chain(comfy).apply(instruction(comfy, space=space), strength=1 - 1e-4).sample()
    assert close(nearly_words, words, 1e-3) and close(nearly_whole, whole, 1e-3)
    assert not close(words, whole, 1e-2)


def test_equal_segment_strengths_match_the_strength(comfy):
    half = Chain(comfy).apply(instruction(comfy), strength=0.5).sample()
    assert torch.equal(Chain(comfy).apply(instruction(comfy), segment_strengths="0.5").sample(), half)
    assert torch.equal(
        Chain(comfy).apply(instruction(comfy), segment_strengths="0.5, 0.5, .5, 0.5, 0.5").sample(), half
    )


@SPACES
def test_timestep_range_follows_the_noise_level(comfy, space):
    """Words act below T: sampling that starts below T matches the stock graph."""
    low_noise = {"denoise": 0.3}
    words = Chain(comfy).sample(**low_noise)
    assert close(
        Chain(comfy).apply(instruction(comfy, space=space), end_timestep=400).sample(**low_noise), words
    )
    assert not close(
        Chain(comfy).apply(instruction(comfy, space=space), end_timestep=50).sample(**low_noise), words, 1e-3
    )
    assert close(
        Chain(comfy).apply(instruction(comfy, space=space), start_timestep=400).sample(**low_noise),
        Chain(comfy).apply(instruction(comfy, space=space)).sample(**low_noise),
    )


@SPACES
def test_results_do_not_depend_on_the_batch(comfy, space):
    both = Chain(comfy, count=2).apply(instruction(comfy, space=space)).sample()
    assert both.shape[0] == 2
    # The first image of a batch gets the same noise as a single image.
    assert close(both[:1], Chain(comfy, count=1).apply(instruction(comfy, space=space)).sample(), 1e-4)


@SPACES
def test_instruction_acts_only_inside_its_mask(comfy, space):
    def masked(mask):
        chain = Chain(comfy)
        words = chain.positive
        chain.model, marked = chain.branch(instruction(comfy, space=space))
        inside = chain.node(
            "ConditioningSetMask",
            conditioning=marked,
            mask=chain.give(mask),
            strength=1.0,
            set_cond_area="default",
        ).out(0)
        outside = chain.node(
            "ConditioningSetMask",
            conditioning=words,
            mask=chain.give(1 - mask),
            strength=1.0,
            set_cond_area="default",
        ).out(0)
        chain.positive = chain.node("ConditioningCombine", conditioning_1=inside, conditioning_2=outside).out(
            0
        )
        return chain.sample(steps=1, sampler_name="euler")

    whole, words = (
        Chain(comfy).apply(instruction(comfy, space=space)).sample(steps=1),
        Chain(comfy).sample(steps=1),
    )
    assert close(masked(torch.ones(1, 64, 64)), whole) and close(masked(torch.zeros(1, 64, 64)), words)
    half = masked(left_mask())
    # In a single step, the instruction predicts the left half and the words the right half.
    assert close(half[..., :4], whole[..., :4]) and close(half[..., 4:], words[..., 4:])


@SPACES
def test_instruction_acts_only_inside_its_area(comfy, space):
    chain = Chain(comfy, size=128)
    words = chain.positive
    chain.model, marked = chain.branch(instruction(comfy, space=space))
    area = chain.node(
        "ConditioningSetArea", conditioning=marked, width=64, height=128, x=0, y=0, strength=1.0
    ).out(0)
    chain.positive = chain.node("ConditioningCombine", conditioning_1=area, conditioning_2=words).out(0)
    mixed, stock = chain.sample(steps=1), Chain(comfy, size=128).sample(steps=1)
    assert close(mixed[..., 8:], stock[..., 8:]) and not close(mixed[..., :8], stock[..., :8], 1e-2)


@SPACES
def test_two_instructions_act_in_two_masks(comfy, space):
    first, second = instruction(comfy, 1, space=space), instruction(comfy, 2, segments=3, tokens=5)
    chain = Chain(comfy)
    words = chain.positive
    mask = left_mask()
    chain.model, one = applied(chain.graph, comfy, chain.model, words, first)
    chain.model, two = applied(chain.graph, comfy, chain.model, words, second)
    left = chain.node(
        "ConditioningSetMask", conditioning=one, mask=chain.give(mask), strength=1.0, set_cond_area="default"
    ).out(0)
    right = chain.node(
        "ConditioningSetMask",
        conditioning=two,
        mask=chain.give(1 - mask),
        strength=1.0,
        set_cond_area="default",
    ).out(0)
    chain.positive = chain.node("ConditioningCombine", conditioning_1=left, conditioning_2=right).out(0)
    mixed = chain.sample(steps=1)
    assert close(mixed[..., :4], Chain(comfy).apply(first).sample(steps=1)[..., :4])
    assert close(mixed[..., 4:], Chain(comfy).apply(second).sample(steps=1)[..., 4:])


@SPACES
def test_timestep_range_matches_stock_nodes(comfy, space):
    chain = Chain(comfy)
    words = chain.positive
    chain.model, marked = chain.branch(instruction(comfy, space=space))
    early = chain.node("ConditioningSetTimestepRange", conditioning=marked, start=0.0, end=0.5).out(0)
    late = chain.node("ConditioningSetTimestepRange", conditioning=words, start=0.5, end=1.0).out(0)
    chain.positive = chain.node("ConditioningCombine", conditioning_1=early, conditioning_2=late).out(0)
    by_nodes = chain.sample(steps=8)
    assert close(
        by_nodes, Chain(comfy).apply(instruction(comfy, space=space), end_timestep=500).sample(steps=8), 1e-4
    )


def test_rejects_two_instructions_on_one_conditioning(comfy):
    chain = Chain(comfy).apply(instruction(comfy)).apply(instruction(comfy, 1))
    assert chain.error() == (
        "Apply Instruction: this CONDITIONING already carries an instruction. "
        "Apply each instruction to a separate CONDITIONING, give each a mask or an area, and combine them."
    )


@pytest.mark.parametrize("length", [1, 2])
def test_accepts_words_of_several_windows(comfy, length):
    """Words of several windows with an init text of one: both are repeated to a common length."""
    chain = Chain(comfy)
    words = " ".join(["make it night"] * 14 * length)
    chain.positive, chain.negative, chain.latent = conditioned(
        chain.graph, chain.parts, chain.give(make_image()), words
    )
    stock = chain.sample()
    chain.apply(instruction(comfy), strength=1e-4)
    assert close(chain.sample(), stock, 1e-3)
