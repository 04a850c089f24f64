"""Sums of instructions: what they do to keys and values, and the laws that they obey."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction.algebra import (
    blend,
    same_effect,
    scale,
    with_segments,
)
from instructbrush.core.instruction.injection import inject
from instructbrush.core.instruction.instruction import Blend, Instruction, parts_of
from instructbrush.tests.unit.instruction.toy_instructions import (
    CONDITIONING,
    LAW,
    LENGTH,
    SITES,
    TERMS,
    WEIGHTS,
    acting,
    add,
    assert_acts_alike,
    instructions,
    interpolate,
    make,
    negate,
    project,
)


def by_formula(terms: list[tuple[float, Instruction | Blend]]) -> dict[str, Tensor]:
    """Computes ``K_cond + sum w (K - K_cond)``."""
    own = acting(scale(make(0), 0))
    result = dict(own)
    for weight, instruction in terms:
        for name, tensor in acting(instruction).items():
            result[name] = result[name] + weight * (tensor - own[name])
    return result


@LAW
@given(TERMS)
def test_blend_is_the_weighted_sum_of_changes(terms: list) -> None:
    expected = by_formula(terms)
    for name, tensor in acting(blend(terms)).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=1e-4)


@LAW
@given(instructions())
def test_blend_of_one_returns_the_instruction(instruction: Instruction) -> None:
    assert blend([(1.0, instruction)]) is instruction and scale(instruction, 1) is instruction
    assert interpolate(instruction, make(7), 0) is instruction
    assert interpolate(make(7), instruction, 1) is instruction
    assert interpolate(instruction, instruction, 0.25) is instruction


@LAW
@given(TERMS)
def test_scale_0_has_no_effect(terms: list) -> None:
    nothing = scale(blend(terms), 0)
    assert isinstance(nothing, Blend) and [part.weight for part in nothing.parts] == [0.0]
    assert inject(nothing).is_identity and inject(scale(nothing, 3)).is_identity
    whole = blend([(1.0, nothing), *terms])
    assert [part.weight for part in parts_of(whole)] == [part.weight for part in parts_of(blend(terms))]


@LAW
@given(TERMS, WEIGHTS, WEIGHTS)
def test_scales_multiply(terms: list, a: float, b: float) -> None:
    instruction = blend(terms)
    assert_acts_alike(scale(scale(instruction, a), b), scale(instruction, a * b))
    assert_acts_alike(scale(instruction, a), blend([(a * weight, term) for weight, term in terms]))


@LAW
@given(TERMS, st.randoms(use_true_random=False))
def test_blend_does_not_depend_on_the_order(terms: list, random: object) -> None:
    shuffled = list(terms)
    random.shuffle(shuffled)
    assert_acts_alike(blend(shuffled), blend(terms))


@LAW
@given(instructions(), instructions(), instructions(), WEIGHTS)
def test_sums_commute_associate_and_distribute(
    a: Instruction, b: Instruction, c: Instruction, factor: float
) -> None:
    assert_acts_alike(add(a, b), add(b, a))
    assert_acts_alike(add(add(a, b), c), add(a, add(b, c)))
    assert_acts_alike(scale(add(a, b), factor), add(scale(a, factor), scale(b, factor)))


@LAW
@given(TERMS)
def test_sum_with_the_negative_has_no_effect(terms: list) -> None:
    instruction = blend(terms)
    assert inject(add(instruction, negate(instruction))).is_identity
    assert_acts_alike(negate(negate(instruction)), instruction)


@LAW
@given(instructions(), instructions(), st.floats(-1, 2))
def test_interpolation_does_not_depend_on_the_conditioning(a: Instruction, b: Instruction, t: float) -> None:
    first, second = acting(a), acting(b)
    for name, tensor in acting(interpolate(a, b, t)).items():
        torch.testing.assert_close(tensor, (1 - t) * first[name] + t * second[name], atol=2e-4, rtol=1e-4)


@LAW
@given(st.lists(st.tuples(WEIGHTS, TERMS), min_size=1, max_size=3))
def test_flattens_nested_blends(nested: list) -> None:
    whole = blend([(weight, blend(terms)) for weight, terms in nested])
    assert_acts_alike(
        whole, blend([(outer * inner, term) for outer, terms in nested for inner, term in terms])
    )
    assert all(isinstance(part.instruction, Instruction) for part in parts_of(whole))


def test_adds_up_weights_of_equal_instructions() -> None:
    a, b = make(1), make(2)
    again = replace(
        a, keys={site: gamma.clone() for site, gamma in a.keys.items()}, info=replace(a.info, title="a copy")
    )
    whole = blend([(0.5, a), (1.0, b), (0.25, again)])
    assert [(part.weight, part.instruction) for part in whole.parts] == [(0.75, a), (1.0, b)]
    assert blend([(0.5, a), (0.5, again), (1.0, b), (-1.0, b)]) is a
    other_tail = replace(a, context=torch.cat([a.context[:4], a.context[4:] + 1]))
    assert not same_effect(a, other_tail) and len(blend([(1.0, a), (1.0, other_tail)]).parts) == 2
    other_init = replace(a, context=torch.cat([a.context[:1], a.context[1:4] + 1, a.context[4:]]))
    assert same_effect(a, other_init)


def test_sum_of_text_instructions_is_the_sum_of_their_states() -> None:
    a, b = make(1, "text", 1), make(2, "text", 1)
    summed = -CONDITIONING
    for each in (a, b):
        states = each.context.clone()
        states[1:4] = each.rows[0]
        summed = summed + states
    for site in SITES:
        torch.testing.assert_close(
            acting(add(a, b))[f"k {site}"][0], project(summed, site)[0], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], r"at least one instruction is needed"),
        ([(math.nan, make(1))], r"the weight nan of 'a1' is not a number"),
        (
            [(1.0, make(1)), (1.0, make(2, family="sd15"))],
            r"'a1' was learned on a pocket model, 'a2' on a sd15 model with other layers: no model takes "
            r"both",
        ),
    ],
)
def test_blend_rejects_instructions_that_do_not_match(terms: list, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        blend(terms)


def test_add_rejects_text_states_of_another_width() -> None:
    wide = Instruction(
        {}, {}, torch.zeros(LENGTH, 8), 1, make(1, "text", tokens=1, segments=1).info, torch.zeros(1, 1, 8)
    )
    with pytest.raises(InstructionError, match=r"'a1' has text states 6 wide, 't1' 8: no model takes both"):
        add(make(1), wide)


def test_finer_segments_have_the_same_effect() -> None:
    instruction = make(1, segments=3)
    assert_acts_alike(with_segments(instruction, 21), instruction)
    assert with_segments(instruction, 3) is instruction
    with pytest.raises(InstructionError, match=r"3 cannot be cut into 4\. Use a multiple"):
        with_segments(instruction, 4)
