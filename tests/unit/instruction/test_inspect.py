"""What Inspect Instruction tells, against the same computed by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from instructbrush.core.errors import InstructionError
from instructbrush.core.instruction.algebra import blend, compose
from instructbrush.core.instruction.inspect import (
    COMMON_WORDS,
    facts,
    nearest_words,
    norms,
    report,
)
from instructbrush.core.instruction.instruction import Instruction, InstructionInfo
from instructbrush.core.instruction.norm_chart import draw_norms

SITES = {
    "down_blocks.0.attentions.1.transformer_blocks.0.attn2": 8,
    "mid_block.attentions.0.transformer_blocks.0.attn2": 4,
}
DOWN, MID = SITES
WIDTH = 6


def project(states: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    for site, width in SITES.items():
        draw = torch.Generator().manual_seed(width)
        found[site] = (
            states @ torch.randn(WIDTH, width, generator=draw),
            states @ torch.randn(WIDTH, width, generator=draw),
        )
    return found


def make_instruction(space: str = "attention", seed: int = 0) -> Instruction:
    draw = torch.Generator().manual_seed(seed)
    info = InstructionInfo(
        "pocket", "f" * 64, 2, 3, space, init_text="make it snow", title=space, steps=7, pairs=2
    )
    context = torch.randn(10, WIDTH, generator=draw)
    if space == "text":
        return Instruction({}, {}, context, 1, info, torch.randn(2, 3, WIDTH, generator=draw))
    keys, values = (
        {site: torch.randn(2, 3, width, generator=draw) for site, width in SITES.items()} for _ in range(2)
    )
    return Instruction(keys, values, context, 1, info)


def test_norms_are_the_change_against_the_init_phrase() -> None:
    instruction = make_instruction()
    found = norms(instruction, project)
    own = project(instruction.context[1:4])[MID][1]
    assert found.layers == (DOWN, MID) and found.relative
    by_hand = ((instruction.values[MID][1] - own) ** 2).sum().sqrt() / (own**2).sum().sqrt()
    assert found.values[1, 1] == pytest.approx(by_hand.item(), rel=1e-5)
    begin = {
        site: tuple(rows.expand(2, -1, -1) for rows in pair)
        for site, pair in project(instruction.context[1:4]).items()
    }
    unmoved = replace(
        instruction,
        keys={site: pair[0] for site, pair in begin.items()},
        values={site: pair[1] for site, pair in begin.items()},
    )
    found = norms(unmoved, project)
    assert torch.count_nonzero(found.keys) == torch.count_nonzero(found.values) == 0


def test_without_a_model_the_rows_themselves_are_measured() -> None:
    instruction = make_instruction()
    found = norms(instruction)
    by_hand = (instruction.keys[DOWN][0] ** 2).sum(dim=1).mean().sqrt()
    assert not found.relative and found.keys[0, 0] == pytest.approx(by_hand.item(), rel=1e-5)


def test_text_states_know_their_own_beginning() -> None:
    instruction = make_instruction("text")
    found, begin = norms(instruction), instruction.context[1:4]
    assert found.layers == ("text states",) and found.values is None and found.relative
    assert found.keys[1, 0] == pytest.approx(
        ((instruction.rows[1] - begin).norm() / begin.norm()).item(), rel=1e-5
    )
    found, own = norms(instruction, project), project(begin)[DOWN][0]
    assert found.keys[1, 0] == pytest.approx(
        ((project(instruction.rows[1])[DOWN][0] - own).norm() / own.norm()).item(), rel=1e-5
    )


def test_a_composition_is_measured_from_both_beginnings() -> None:
    a, b = make_instruction("text", 0), make_instruction("text", 1)
    begin = [each.context[1:4] for each in (a, b)]
    composed = compose(replace(a, rows=begin[0].repeat(2, 1, 1)), replace(b, rows=begin[1].repeat(2, 1, 1)))
    assert torch.count_nonzero(norms(composed).keys) == 0


@pytest.mark.parametrize("space", ["attention", "text"])
def test_nearest_words_by_hand(space: str) -> None:
    instruction = make_instruction(space)
    words, states = ("snow", "rain", "night", "hat"), torch.randn(4, WIDTH)
    near = nearest_words(instruction, (words, states), project, count=4)
    assert len(near) == 3
    for row in range(3):
        cosines = dict.fromkeys(words, 0.0)
        for word, state in zip(words, states, strict=True):
            if space == "text":
                each = [
                    cosine_similarity(instruction.rows[segment, row], state, dim=0) for segment in range(2)
                ]
            else:
                learned = (instruction.keys, instruction.values)
                own = project(state[None])
                each = [
                    cosine_similarity(learned[i][site][segment, row], own[site][i][0], dim=0)
                    for i in (0, 1)
                    for site in SITES
                    for segment in (0, 1)
                ]
            cosines[word] = (sum(each) / len(each)).item()
        assert [word for word, _ in near[row]] == sorted(words, key=lambda word: -cosines[word])
        assert dict(near[row]) == pytest.approx(cosines, abs=1e-5)
    assert nearest_words(instruction, dict(zip(words, states, strict=True)), project, count=2) == [
        row[:2] for row in near
    ]


def test_a_words_own_keys_and_values_are_nearest_to_it() -> None:
    instruction, states = make_instruction(), torch.randn(5, WIDTH)
    own = project(states[[3, 0, 4]])
    learned = [{site: pair[i].expand(2, -1, -1) for site, pair in own.items()} for i in (0, 1)]
    near = nearest_words(
        replace(instruction, keys=learned[0], values=learned[1]), (tuple("abcde"), states), project, count=1
    )
    assert [row[0][0] for row in near] == ["d", "a", "e"] and all(
        row[0][1] == pytest.approx(1.0, abs=1e-5) for row in near
    )


def test_what_words_need_is_named() -> None:
    with pytest.raises(InstructionError, match=r"'attention' holds keys and values; connect the model"):
        nearest_words(make_instruction(), (("a",), torch.zeros(1, WIDTH)))
    for words in (
        (("a",), torch.zeros(1, 5)),
        ((), torch.zeros(0, WIDTH)),
        (("a", "b"), torch.zeros(1, WIDTH)),
    ):
        with pytest.raises(InstructionError, match=r"expected \[words, 6\]\. Take the text encoder"):
            nearest_words(make_instruction("text"), words)


def test_a_report_tells_all_of_it() -> None:
    instruction, words = make_instruction(), (("snow", "rain"), torch.randn(2, WIDTH))
    told = report(instruction, project, words)
    assert "init text: 'make it snow'" in told and "learned: 7 steps from 2 pairs" in told
    assert (
        "\n  t 0-499: K " in told
        and "changed most: " in told
        and "mid 0.0 (K " in told
        and "\n  row 3: " in told
    )
    assert "connect the model" in report(instruction, words=words) and "nearest words:" not in report(
        instruction, words=words
    )
    assert "nearest words:" in report(make_instruction("text"), words=words)
    both = report(blend([(0.5, instruction), (2.0, make_instruction("text"))]), project)
    assert both.count("title: ") == 2 and "weight: 0.5" in both and "weight: 2" in both


def test_facts_of_a_header() -> None:
    told = facts(make_instruction("text").info)
    assert (
        told["rows"] == "2 segments x 3 tokens of text states"
        and "weight" not in told
        and told["final loss"] == "unknown"
    )


def test_norms_are_drawn() -> None:
    instruction = make_instruction()
    image = draw_norms(instruction, project)
    assert image.size == (640, 3 * 18 + 2 * 66)
    pixels = image.getcolors(image.width * image.height)
    colours = {colour: count for count, colour in pixels}
    assert colours[(0x5B, 0x9B, 0xF3)] > 500 and colours[(0xF0, 0xA0, 0x50)] > 500
    foreign = replace(instruction, info=replace(instruction.info, title="雪"))
    assert draw_norms(blend([(1.0, foreign), (1.0, make_instruction("text"))])).size == (
        640,
        2 * image.height,
    )


def test_common_words_are_words() -> None:
    assert len(set(COMMON_WORDS)) == len(COMMON_WORDS) > 100
