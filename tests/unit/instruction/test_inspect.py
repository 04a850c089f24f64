"""Norms, nearest words and reports of Inspect Instruction."""

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
    keys = {site: torch.randn(2, 3, width, generator=draw) for site, width in SITES.items()}
    values = {site: torch.randn(2, 3, width, generator=draw) for site, width in SITES.items()}
    return Instruction(keys, values, context, 1, info)


def test_norms_are_relative_to_the_init_text() -> None:
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


def test_norms_are_absolute_without_a_model() -> None:
    instruction = make_instruction()
    found = norms(instruction)
    by_hand = (instruction.keys[DOWN][0] ** 2).sum(dim=1).mean().sqrt()
    assert not found.relative and found.keys[0, 0] == pytest.approx(by_hand.item(), rel=1e-5)


def test_norms_of_text_states_need_no_model() -> None:
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


def test_norms_of_a_composition_are_relative_to_both_init_texts() -> None:
    a, b = make_instruction("text", 0), make_instruction("text", 1)
    begin = [each.context[1:4] for each in (a, b)]
    composed = compose(replace(a, rows=begin[0].repeat(2, 1, 1)), replace(b, rows=begin[1].repeat(2, 1, 1)))
    assert torch.count_nonzero(norms(composed).keys) == 0


@pytest.mark.parametrize("space", ["attention", "text"])
def test_nearest_words_match_a_plain_computation(space: str) -> None:
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


def test_finds_the_word_of_its_own_keys_and_values() -> None:
    instruction, states = make_instruction(), torch.randn(5, WIDTH)
    own = project(states[[3, 0, 4]])
    learned = [{site: pair[i].expand(2, -1, -1) for site, pair in own.items()} for i in (0, 1)]
    near = nearest_words(
        replace(instruction, keys=learned[0], values=learned[1]), (tuple("abcde"), states), project, count=1
    )
    assert [row[0][0] for row in near] == ["d", "a", "e"] and all(
        row[0][1] == pytest.approx(1.0, abs=1e-5) for row in near
    )


def test_nearest_words_rejects_a_missing_model_or_wrong_states() -> None:
    with pytest.raises(InstructionError, match=r"'attention' holds keys and values; connect the model"):
        nearest_words(make_instruction(), (("a",), torch.zeros(1, WIDTH)))
    for words in (
        (("a",), torch.zeros(1, 5)),
        ((), torch.zeros(0, WIDTH)),
        (("a", "b"), torch.zeros(1, WIDTH)),
    ):
        with pytest.raises(InstructionError, match=r"expected \[words, 6\]\. Take the text encoder"):
            nearest_words(make_instruction("text"), words)


def test_report_holds_header_norms_and_words() -> None:
    instruction, words = make_instruction(), (("snow", "rain"), torch.randn(2, WIDTH))
    text = report(instruction, project, words)
    for line in (
        "init text: 'make it snow'",
        "learned: 7 steps from 2 pairs",
        "\n  t 0-499: K ",
        "changed most: ",
        "mid 0.0 (K ",
        "\n  row 3: ",
    ):
        assert line in text
    without_model = report(instruction, words=words)
    assert "connect the model" in without_model and "nearest words:" not in without_model
    assert "nearest words:" in report(make_instruction("text"), words=words)
    both = report(blend([(0.5, instruction), (2.0, make_instruction("text"))]), project)
    assert both.count("title: ") == 2 and "weight: 0.5" in both and "weight: 2" in both


def test_facts_hold_the_header() -> None:
    found = facts(make_instruction("text").info)
    assert found["rows"] == "2 segments x 3 tokens of text states"
    assert found["final loss"] == "unknown" and "weight" not in found


def test_facts_of_a_foreign_header_can_be_printed() -> None:
    info = replace(make_instruction().info, title="\x1b[2Jx\x9b", settings={"long": "a" * 5000})
    found = facts(info)
    assert found["title"] == " [2Jx "
    assert len(found["settings"]) == 2000 and found["settings"].endswith("aaa...")


def test_draws_a_bar_for_every_norm() -> None:
    instruction = make_instruction()
    image = draw_norms(instruction, project)
    assert image.size == (640, 3 * 18 + 2 * 66)
    pixels = image.getcolors(image.width * image.height)
    counts = {color: count for count, color in pixels}
    assert counts[(0x5B, 0x9B, 0xF3)] > 500 and counts[(0xF0, 0xA0, 0x50)] > 500
    foreign = replace(instruction, info=replace(instruction.info, title="雪"))
    assert draw_norms(blend([(1.0, foreign), (1.0, make_instruction("text"))])).size == (
        640,
        2 * image.height,
    )


def adapter(down: Tensor, up: Tensor) -> Instruction:
    """An adapter of one layer, for many segments."""
    info = InstructionInfo("pocket", "f" * 64, len(down), 0, "adapter")
    layer = {"mid.attn2.q.down": down, "mid.attn2.q.up": up}
    return Instruction({}, {}, torch.zeros(4, WIDTH), 1, info, adapter=layer)


@pytest.mark.parametrize("rank", [2, 7, 30])
def test_norms_of_an_adapter_are_those_of_its_product(rank: int) -> None:
    draw = torch.Generator().manual_seed(rank)
    down = torch.randn(3, rank, 8, generator=draw)
    up = torch.randn(3, rank, 5, generator=draw)
    expected = (down.mT @ up).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms(adapter(down, up)).keys[:, 0], expected)


def test_norms_of_an_adapter_need_no_more_memory_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    products = []
    multiply = Tensor.__matmul__

    def counted(first: Tensor, second: Tensor) -> Tensor:
        products.append(multiply(first, second))
        return products[-1]

    monkeypatch.setattr(Tensor, "__matmul__", counted)
    assert norms(adapter(torch.ones(1, 4096, 2), torch.ones(1, 4096, 3))).keys.item() == pytest.approx(
        4096 * 6**0.5
    )
    norms(adapter(torch.ones(50, 64, 4096), torch.ones(50, 64, 4096)))
    assert max(product.numel() for product in products) <= 64 * 64


def test_draws_the_first_segments_of_many() -> None:
    long = adapter(torch.ones(1000, 1, 2), torch.ones(1000, 1, 2))
    short = make_instruction()
    line = 18
    image = draw_norms(blend([(1.0, short), *((1.0 + index, long) for index in range(15))]))
    assert image.size == (640, 2 * 3 * line + 64 * 66 + line)
    last_line = image.crop((0, image.height - line, 640, image.height))
    assert len(last_line.getcolors()) > 1
    assert draw_norms(adapter(torch.ones(64, 1, 2), torch.ones(64, 1, 2))).height == 3 * line + 64 * 66


def test_common_words_are_distinct() -> None:
    assert len(set(COMMON_WORDS)) == len(COMMON_WORDS) > 100
