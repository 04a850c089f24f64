"""Composition of instructions, and the hybrid of an instruction and words."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction.algebra import compose, same_effect, scale, with_words
from instructbrush.core.instruction.instruction import Blend, Instruction, WeightedInstruction
from instructbrush.tests.unit.instruction.toy_instructions import (
    LAW,
    LENGTH,
    SITES,
    SPACES,
    TIMES,
    WIDTH,
    acting,
    instructions,
    make,
    project,
)


def side_by_side(a: Instruction, b: Instruction) -> dict[str, Tensor]:
    """Puts keys and values of two instructions side by side, row by row and timestep by timestep."""
    found: dict[str, list[Tensor]] = {f"{kind} {site}": [] for site in SITES for kind in "kv"}
    for time in TIMES.tolist():
        for site in SITES:
            found[f"k {site}"].append(rows_at(a, b, site, time, 0))
            found[f"v {site}"].append(rows_at(a, b, site, time, 1))
    return {name: torch.stack(each) for name, each in found.items()}


def rows_at(a: Instruction, b: Instruction, site: str, time: int, place: int) -> Tensor:
    """The keys (place 0) or values (1) of one site and timestep."""
    frozen = project(a.context, site)[place]
    rows = [frozen[: a.start]]
    for each in (a, b):
        segment = time * each.info.segments // 1000
        if each.rows is not None:
            rows.append(project(each.rows[segment], site)[place])
        else:
            rows.append((each.keys, each.values)[place][site][segment])
    rows.append(frozen[a.start + a.info.tokens :])
    return torch.cat(rows)


@LAW
@given(st.data(), st.sampled_from(SPACES))
def test_compose_puts_keys_and_values_side_by_side(data: st.DataObject, space: str) -> None:
    a = data.draw(instructions(spaces=(space,)))
    b = data.draw(instructions(spaces=(space,)))
    composed = compose(a, b)
    expected = side_by_side(a, b)
    assert composed.info.tokens == a.info.tokens + b.info.tokens and composed.start == a.start
    for name, tensor in acting(composed).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)


@LAW
@given(st.data(), st.sampled_from(SPACES))
def test_composition_is_associative(data: st.DataObject, space: str) -> None:
    a = data.draw(instructions(spaces=(space,)))
    b = data.draw(instructions(spaces=(space,)))
    c = data.draw(instructions(spaces=(space,)))
    left = compose(compose(a, b), c)
    right = compose(a, compose(b, c))
    assert same_effect(left, right) and torch.equal(left.context, right.context)
    assert left.info == right.info


def test_compose_merges_the_infos() -> None:
    a = make(1)
    b = make(2, segments=2)
    b = replace(b, info=replace(b.info, fingerprint="1" * 64, model_title="a fine-tune", pairs=3))
    info = compose(a, b).info
    assert (info.title, info.tokens, info.segments, info.pairs, info.fingerprint) == ("a1, a2", 6, 10, 3, "")
    assert compose(a, a).info.fingerprint == a.info.fingerprint
    assert compose(scale(scale(a, 2), 0.5), b).info == info


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            make(1),
            make(2, "text"),
            r"'a1' was learned in attention space, 't2' in text space\. Blend them instead",
        ),
        (
            make(1),
            make(2, family="sd15"),
            r"'a1' was learned on a pocket model, 'a2' on a sd15 model with other layers",
        ),
        (
            make(1),
            scale(make(2), 0.5),
            r"'0\.5 a2' is a weighted sum, and rows cannot be added to a sum\. Compose first, then scale or "
            r"blend",
        ),
        (make(1, segments=999), make(2, segments=1000), r"999 and 1000 segments agree only in 999000"),
    ],
)
def test_compose_rejects_instructions_that_do_not_match(
    first: Instruction, second: Instruction, message: str
) -> None:
    with pytest.raises(InstructionError, match=message):
        compose(first, second)


def encoded(count: int, length: int = LENGTH) -> Tensor:
    """Text states whose first channel numbers the rows: 0 start, 1.. words, -1 end, -2 padding."""
    states = torch.zeros(length, WIDTH)
    kept = min(count, length - 2)
    states[:, 0] = torch.tensor([0, *range(1, kept + 1), -1] + [-2] * (length - kept - 2))
    return states


@LAW
@given(instructions(), st.integers(0, 20))
def test_hybrid_keeps_every_token_once(instruction: Instruction, count: int) -> None:
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
    assert torch.equal(hybrid.context[:end], instruction.context[:end])
    assert hybrid.context.shape == instruction.context.shape
    assert all(torch.equal(tensor, hybrid.learned()[name]) for name, tensor in instruction.learned().items())


@pytest.mark.parametrize("space", SPACES)
def test_hybrid_puts_words_after_the_learned_rows(space: str) -> None:
    instruction, states = make(1, space), torch.randn(LENGTH, WIDTH)
    hybrid, cut = with_words(instruction, states, 4, "and a hat")
    assert cut == 0 and hybrid.title == f"{instruction.title} + and a hat"
    before, after = acting(instruction), acting(hybrid)
    for site in SITES:
        keys = project(states, site)[0]
        assert torch.equal(after[f"k {site}"][:, :4], before[f"k {site}"][:, :4])
        torch.testing.assert_close(
            after[f"k {site}"][:, 4:], keys[1:13].expand(len(TIMES), -1, -1), atol=1e-5, rtol=1e-5
        )


def test_adds_words_to_every_part_of_a_blend() -> None:
    short = WeightedInstruction(0.5, make(1, tokens=2))
    long = WeightedInstruction(2.0, make(2, "text", tokens=4))
    whole = Blend((short, long))
    hybrid, cut = with_words(whole, encoded(12), 12)
    assert cut == 2 and [part.weight for part in hybrid.parts] == [0.5, 2.0]
    for part, original in zip(hybrid.parts, whole.parts, strict=True):
        alone, _ = with_words(original.instruction, encoded(12), 12)
        assert torch.equal(part.instruction.context, alone.context)


def test_adds_no_words_to_a_full_window() -> None:
    full = make(1, tokens=LENGTH - 1)
    assert with_words(full, encoded(3), 3) == (full, 3)


def test_rejects_words_from_another_text_encoder() -> None:
    with pytest.raises(
        InstructionError,
        match=r"the text states are \(16, 5\), those of 'a1' \(16, 6\)\. Use the text encoder",
    ):
        with_words(make(1), torch.zeros(LENGTH, WIDTH - 1), 2)
