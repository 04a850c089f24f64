"""Arithmetic of instructions: what it does to the keys and values that reach the model, and the laws it obeys."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction.algebra import (
    add,
    blend,
    compose,
    interpolate,
    negate,
    same_effect,
    scale,
    with_segments,
    with_words,
)
from instructbrush.core.instruction.injection import inject
from instructbrush.core.instruction.instruction import (
    Blend,
    Instruction,
    InstructionInfo,
    WeightedInstruction,
    parts_of,
)

LENGTH, WIDTH = 16, 6
SITES = {"down.attn2": 8, "up.attn2": 4}
SPACES = ("attention", "text")

LAW = settings(deadline=None, max_examples=25, derandomize=True)


@cache
def made(
    seed: int,
    space: str = "attention",
    segments: int = 5,
    tokens: int = 3,
    start: int = 1,
    family: str = "pocket",
) -> Instruction:
    draw = torch.Generator().manual_seed(seed)
    info = InstructionInfo(
        family,
        "0" * 64,
        segments,
        tokens,
        space,
        title=f"{space[0]}{seed}",
        settings={"include_bos": start == 0},
    )
    context = torch.randn(LENGTH, WIDTH, generator=draw)
    if space == "text":
        return Instruction({}, {}, context, start, info, torch.randn(segments, tokens, WIDTH, generator=draw))
    keys, values = (
        {site: torch.randn(segments, tokens, width, generator=draw) for site, width in SITES.items()}
        for _ in range(2)
    )
    return Instruction(keys, values, context, start, info)


def instructions(spaces: tuple[str, ...] = SPACES) -> st.SearchStrategy[Instruction]:
    return st.builds(
        made,
        st.integers(0, 5),
        st.sampled_from(spaces),
        st.sampled_from([1, 2, 3, 5]),
        st.integers(1, 4),
        st.integers(0, 1),
    )


WEIGHTS = st.floats(-3, 3, allow_nan=False).map(lambda value: round(value, 3))
TERMS = st.lists(st.tuples(WEIGHTS, instructions()), min_size=1, max_size=4)
TIMES = torch.tensor([0, 150, 199, 200, 333, 334, 400, 500, 650, 667, 800, 999])
CONDITIONING = torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(99))


def project(states: Tensor, site: str) -> tuple[Tensor, Tensor]:
    """K and V of a site: fixed linear maps."""
    draw = torch.Generator().manual_seed(SITES[site])
    return states @ torch.randn(WIDTH, SITES[site], generator=draw), states @ torch.randn(
        WIDTH, SITES[site], generator=draw
    )


def acting(instruction: Instruction | Blend) -> dict[str, Tensor]:
    """Keys and values at every site and timestep, as the injection gives them to attention; K_cond where it touches nothing."""
    injection = inject(instruction)
    context = CONDITIONING.expand(len(TIMES), -1, -1)
    found = {}
    call = None if injection.is_identity else injection.begin(context, TIMES)
    for site in SITES:
        keys, values = project(context if call is None else call.context, site)
        found[f"k {site}"], found[f"v {site}"] = (
            (keys, values) if call is None else call.keys_values(site, keys, values)
        )
    return found


def assert_acts_alike(first: Instruction | Blend, second: Instruction | Blend) -> None:
    expected = acting(second)
    for name, tensor in acting(first).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=1e-4)


def by_formula(terms: list[tuple[float, Instruction | Blend]]) -> dict[str, Tensor]:
    """``K_cond + sum w (K - K_cond)`` by hand."""
    own = acting(scale(made(0), 0))
    result = dict(own)
    for weight, instruction in terms:
        for name, tensor in acting(instruction).items():
            result[name] = result[name] + weight * (tensor - own[name])
    return result


@LAW
@given(TERMS)
def test_blends_are_weighted_sums_of_changes(terms: list) -> None:
    expected = by_formula(terms)
    for name, tensor in acting(blend(terms)).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=1e-4)


@LAW
@given(instructions())
def test_a_blend_of_one_is_itself(instruction: Instruction) -> None:
    assert blend([(1.0, instruction)]) is instruction and scale(instruction, 1) is instruction
    assert (
        interpolate(instruction, made(7), 0) is instruction
        and interpolate(made(7), instruction, 1) is instruction
    )
    assert interpolate(instruction, instruction, 0.25) is instruction


@LAW
@given(TERMS)
def test_scale_0_is_no_effect(terms: list) -> None:
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
def test_order_does_not_matter(terms: list, random: object) -> None:
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
def test_a_sum_with_its_negative_is_nothing(terms: list) -> None:
    instruction = blend(terms)
    assert inject(add(instruction, negate(instruction))).is_identity
    assert_acts_alike(negate(negate(instruction)), instruction)


@LAW
@given(instructions(), instructions(), st.floats(-1, 2))
def test_interpolation_needs_no_words(a: Instruction, b: Instruction, t: float) -> None:
    first, second = acting(a), acting(b)
    for name, tensor in acting(interpolate(a, b, t)).items():
        torch.testing.assert_close(tensor, (1 - t) * first[name] + t * second[name], atol=2e-4, rtol=1e-4)


@LAW
@given(st.lists(st.tuples(WEIGHTS, TERMS), min_size=1, max_size=3))
def test_blends_of_blends_are_one_sum(nested: list) -> None:
    whole = blend([(weight, blend(terms)) for weight, terms in nested])
    assert_acts_alike(
        whole, blend([(outer * inner, term) for outer, terms in nested for inner, term in terms])
    )
    assert all(isinstance(part.instruction, Instruction) for part in parts_of(whole))


def test_weights_of_equal_instructions_add_up() -> None:
    a, b = made(1), made(2)
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


def test_summed_text_deltas_are_summed_before_the_projection() -> None:
    """For text states, the sum at every layer is the sum of the states."""
    a, b = made(1, "text", 1), made(2, "text", 1)
    whole = [CONDITIONING.clone() for _ in range(2)]
    for states, each in zip(whole, (a, b), strict=True):
        states[:] = each.context
        states[1:4] = each.rows[0]
    summed = whole[0] + whole[1] - CONDITIONING
    for site in SITES:
        torch.testing.assert_close(
            acting(add(a, b))[f"k {site}"][0], project(summed, site)[0], atol=1e-4, rtol=1e-4
        )


# Composition


def by_hand(a: Instruction, b: Instruction) -> dict[str, Tensor]:
    """Keys and values of two instructions side by side, put together row by row, timestep by timestep."""
    found: dict[str, list[Tensor]] = {f"{kind} {site}": [] for site in SITES for kind in "kv"}
    for time in TIMES.tolist():
        for site in SITES:
            for place, (letter, kind) in enumerate((("k", "keys"), ("v", "values"))):
                frozen = project(a.context, site)[place]
                rows = [*frozen[: a.start]]
                for each in (a, b):
                    segment = time * each.info.segments // 1000
                    rows += [
                        *(
                            getattr(each, kind)[site][segment]
                            if each.rows is None
                            else project(each.rows[segment], site)[place]
                        )
                    ]
                rows += [*frozen[a.start + a.info.tokens :]]
                found[f"{letter} {site}"].append(torch.stack(rows))
    return {name: torch.stack(each) for name, each in found.items()}


@LAW
@given(st.data(), st.sampled_from(SPACES))
def test_composed_keys_and_values_stand_side_by_side(data: st.DataObject, space: str) -> None:
    a, b = (data.draw(instructions(spaces=(space,))) for _ in range(2))
    composed, expected = compose(a, b), by_hand(a, b)
    assert composed.info.tokens == a.info.tokens + b.info.tokens and composed.start == a.start
    for name, tensor in acting(composed).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)


@LAW
@given(st.data(), st.sampled_from(SPACES))
def test_composition_is_associative(data: st.DataObject, space: str) -> None:
    a, b, c = (data.draw(instructions(spaces=(space,))) for _ in range(3))
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    assert same_effect(left, right) and torch.equal(left.context, right.context)
    assert left.info == right.info


def test_a_composition_tells_what_it_was_made_of() -> None:
    a, b = (
        made(1),
        replace(
            made(2, segments=2),
            info=replace(made(2, segments=2).info, fingerprint="1" * 64, model_title="a fine-tune", pairs=3),
        ),
    )
    info = compose(a, b).info
    assert (info.title, info.tokens, info.segments, info.pairs, info.fingerprint) == ("a1, a2", 6, 10, 3, "")
    assert compose(a, a).info.fingerprint == a.info.fingerprint
    assert compose(scale(scale(a, 2), 0.5), b).info == info


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            made(1),
            made(2, "text"),
            r"'a1' was learned in the space of attention, 't2' in that of text\. Blend them instead",
        ),
        (
            made(1),
            made(2, family="sd15"),
            r"'a1' was learned on a pocket model, 'a2' on a sd15 model with other layers",
        ),
        (
            made(1),
            scale(made(2), 0.5),
            r"'0\.5 a2' is a weighted sum, and rows cannot be added to a sum\. Compose first, then scale or blend",
        ),
        (made(1, segments=999), made(2, segments=1000), r"999 and 1000 segments agree only in 999000"),
    ],
)
def test_what_cannot_be_composed_is_named(first: Instruction, second: Instruction, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        compose(first, second)


def test_finer_segments_change_nothing() -> None:
    instruction = made(1, segments=3)
    assert_acts_alike(with_segments(instruction, 21), instruction)
    assert with_segments(instruction, 3) is instruction
    with pytest.raises(InstructionError, match=r"3 cannot be cut into 4\. Use a multiple"):
        with_segments(instruction, 4)


# The hybrid


def encoded(count: int, length: int = LENGTH) -> Tensor:
    """States of a text of ``count`` tokens whose first channel tells what a row is: 0 start, 1.. words, -1 end, -2 padding."""
    states = torch.zeros(length, WIDTH)
    kept = min(count, length - 2)
    states[:, 0] = torch.tensor([0, *range(1, kept + 1), -1] + [-2] * (length - kept - 2))
    return states


@LAW
@given(instructions(), st.integers(0, 20))
def test_a_hybrid_neither_drops_nor_doubles_a_token(instruction: Instruction, count: int) -> None:
    instruction = replace(instruction, context=instruction.context + 1000)
    hybrid, cut = with_words(instruction, encoded(count), count)
    end = instruction.start + instruction.info.tokens
    if count == 0:
        assert hybrid is instruction and cut == 0
        return
    tail = hybrid.context[end:, 0].tolist()
    words = [row for row in tail if row > 0]
    assert words == list(range(1, len(words) + 1)) and len(words) + cut == count
    assert tail[len(words)] == -1 and tail.count(-1) == 1 and set(tail[len(words) + 1 :]) <= {-2}
    assert (cut > 0) == (count > min(LENGTH - end - 1, LENGTH - 2))
    assert (
        torch.equal(hybrid.context[:end], instruction.context[:end])
        and hybrid.context.shape == instruction.context.shape
    )
    assert all(torch.equal(tensor, hybrid.learned()[name]) for name, tensor in instruction.learned().items())


@pytest.mark.parametrize("space", SPACES)
def test_the_words_reach_the_model_after_the_learned_rows(space: str) -> None:
    instruction, states = made(1, space), torch.randn(LENGTH, WIDTH)
    hybrid, cut = with_words(instruction, states, 4, "and a hat")
    assert cut == 0 and hybrid.title == f"{instruction.title} + and a hat"
    before, after = acting(instruction), acting(hybrid)
    for site in SITES:
        keys = project(states, site)[0]
        assert torch.equal(after[f"k {site}"][:, :4], before[f"k {site}"][:, :4])
        torch.testing.assert_close(
            after[f"k {site}"][:, 4:], keys[1:13].expand(len(TIMES), -1, -1), atol=1e-5, rtol=1e-5
        )


def test_every_part_of_a_blend_gets_the_words() -> None:
    whole = Blend(
        (WeightedInstruction(0.5, made(1, tokens=2)), WeightedInstruction(2.0, made(2, "text", tokens=4)))
    )
    hybrid, cut = with_words(whole, encoded(12), 12)
    assert cut == 2 and [part.weight for part in hybrid.parts] == [0.5, 2.0]
    for part, given_ in zip(hybrid.parts, whole.parts, strict=True):
        assert torch.equal(
            part.instruction.context, with_words(given_.instruction, encoded(12), 12)[0].context
        )


def test_a_full_window_takes_no_words() -> None:
    full = made(1, tokens=LENGTH - 1)
    assert with_words(full, encoded(3), 3) == (full, 3)


def test_states_of_another_encoder_are_refused() -> None:
    with pytest.raises(
        InstructionError,
        match=r"the text states are \(16, 5\), those of 'a1' \(16, 6\)\. Use the text encoder",
    ):
        with_words(made(1), torch.zeros(LENGTH, WIDTH - 1), 2)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], r"at least one instruction is needed"),
        ([(math.nan, made(1))], r"the weight nan of 'a1' is no number"),
        (
            [(1.0, made(1)), (1.0, made(2, family="sd15"))],
            r"'a1' was learned on a pocket model, 'a2' on a sd15 model with other layers: no model takes both",
        ),
    ],
)
def test_what_cannot_be_blended_is_named(terms: list, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        blend(terms)


def test_text_states_of_another_width_are_not_blended() -> None:
    wide = Instruction(
        {}, {}, torch.zeros(LENGTH, 8), 1, made(1, "text", tokens=1, segments=1).info, torch.zeros(1, 1, 8)
    )
    with pytest.raises(InstructionError, match=r"'a1' has text states 6 wide, 't1' 8: no model takes both"):
        add(made(1), wide)
