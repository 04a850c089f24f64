"""Wishes become instructions: reading answers, asking again, falling back, and a trained tiny model."""

import re
import time

import pytest
import torch

from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.errors import InstructionError, ModelError
from instructbrush.core.reasoning.explain import (
    MOST_LETTERS,
    STRICT_TASK,
    TASK,
    Explanation,
    explain,
    parse_answer,
)
from instructbrush.tests.support import tiny_mllms

GOOD = '{"instruction": "make it night", "reason": "hours have passed"}'
NESTED = '{"a":' * 100_000 + "1" + "}" * 100_000
IMAGE = torch.full((32, 32, 3), 0.5)


class Scripted:
    """A model that gives prepared answers and records the questions."""

    name = "scripted"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def answer(self, image, words, max_new_tokens=200, task="", progress=None):
        self.asked.append((words, max_new_tokens, task))
        return self.answers.pop(0)


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure! The edit is {GOOD}. I hope that helps {{smile}}",
        '{ " instruction " : " make it night " , " reason " : " hours have passed " }',
        '{"Reason": "hours\\nhave passed", "INSTRUCTION": "make  it night\\n", "sure": true}',
        f'{{"thought": "hm"}} {GOOD}',
        f"{{nonsense}} {{{{ {GOOD}",
        f'{{"instruction": "make it day", "reason": "a first idea"}} No: {GOOD} {{"sure": true}}',
        f'{{"instruction": "make it day", "reason": "a first idea"}} {GOOD} {{"instruction": "cut of',
        f'<think>Maybe {{"instruction": "make it day", "reason": "a first idea"}}?</think>{GOOD}',
        '<Thinking>\none <think>two</think> {"instruction": "make it day", "reason": "r"}\n</Thinking>\n'
        + GOOD,
        f'<thought process>{{"instruction": "make it day", "reason": "r"}}</thought>{GOOD}',
        f'[THINK]{{"instruction": "make it day", "reason": "r"}}[/THINK] {GOOD}',
        f'◁think▷{{"instruction": "make it day", "reason": "r"}}◁/think▷{GOOD}',
        f"I [think about] it: {GOOD}",
        f'the template opened it {{"instruction": "make it day", "reason": "r"}} </think> {GOOD}',
        f'{GOOD} <think>or rather {{"instruction": "make it day", "reason": "r"}}',
        f"{'{' * 300_000} {GOOD}",
        f"{NESTED} {GOOD}",
        '{"instruction": "make it\\u0000 night\\ud800", "reason": "hours\\u0007 have passed"}',
    ],
)
def test_finds_json_in_any_text(answer):
    assert parse_answer(answer) == Explanation("make it night", "hours have passed")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "There was no JSON in it."),
        ("make it night", "There was no JSON in it."),
        ('["make it night", "because"]', "There was no JSON in it."),
        (GOOD[:-3], "There was no JSON in it."),
        ('{"a": ' * 5000, "There was no JSON in it."),
        (f"<think>{GOOD}", "It reached the token limit before it answered: allow more tokens."),
        (f"<reasoning>{GOOD}", "It reached the token limit before it answered: allow more tokens."),
        (f"[THINK]{GOOD}", "It reached the token limit before it answered: allow more tokens."),
        (f"{GOOD}</think>", "There was no JSON in it."),
        ('{"instruction": "a", "reason": ' + "9" * 5000 + "}", "There was no JSON in it."),
        ("{}", "Its JSON had no text named instruction."),
        ('{"instruction": 3, "reason": "r"}', "Its JSON had no text named instruction."),
        ('{"instruction": ["a"], "reason": "r"}', "Its JSON had no text named instruction."),
        ('{"instruction": "a"}', "Its JSON had no text named reason."),
        ('{"instruction": "a", "reason": null}', "Its JSON had no text named reason."),
        ('{"instruction": " ... ", "reason": "r"}', "Its instruction was empty."),
        (
            '{"instruction": "one\\ntwo", "reason": "r"}',
            f"Its instruction was not one line of at most {MOST_LETTERS} letters.",
        ),
        (
            f'{{"instruction": "{"a" * (MOST_LETTERS + 1)}", "reason": "r"}}',
            f"Its instruction was not one line of at most {MOST_LETTERS} letters.",
        ),
    ],
)
def test_rejects_unusable_answers(answer, message):
    with pytest.raises(InstructionError) as caught:
        parse_answer(answer)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "answer",
    [
        NESTED,
        "{" * 600_000,
        '{"' * 300_000,
        '{\\"' * 200_000,
        '{"a":[' * 1000 + "1," * 300_000,
        "<think>" * 90_000 + "{" * 9,
    ],
)
def test_reads_huge_answers_fast(answer):
    start = time.process_time()
    with pytest.raises(InstructionError):
        parse_answer(answer)
    assert time.process_time() - start < 1


def test_uses_a_good_answer_at_once():
    model = Scripted(GOOD)
    assert explain(model, IMAGE, " it should look as if\nhours had passed ", 50) == Explanation(
        "make it night", "hours have passed"
    )
    assert model.asked == [("it should look as if hours had passed", 50, TASK)]


def test_asks_again_after_a_bad_answer():
    model = Scripted("make it night", GOOD)
    assert not explain(model, IMAGE, "hours").fallback
    assert [task for _, _, task in model.asked] == [TASK, STRICT_TASK]


def test_falls_back_to_the_wish_after_two_bad_answers():
    model = Scripted("well", "it\nis late " * 30)
    found = explain(model, IMAGE, "let hours pass")
    assert (found.instruction, found.reason, found.fallback) == ("let hours pass", "", True)
    assert len(model.asked) == 2
    answer_start = " ".join(("it is late " * 30).split())[:80]
    assert found.warning == (
        "scripted gave no usable answer, so your own words are used. There was no JSON in it. "
        f"Its last answer began: {answer_start!r}. Rephrase the wish, or load a larger model."
    )


@pytest.mark.parametrize("wish", ["", " \n"])
def test_rejects_an_empty_wish(wish):
    message = re.escape("Explain Instruction: the wish is empty. Write a wish, such as: ")
    with pytest.raises(InstructionError, match=message):
        explain(Scripted(), IMAGE, wish)


def test_example_answers_in_the_prompts_are_readable():
    for task in (TASK, STRICT_TASK):
        assert parse_answer(task).instruction


@pytest.fixture(scope="module")
def trained_mllm(tmp_path_factory):
    """A tiny LLaVA whose answer to the same words depends on the image, and a dark and a light image."""
    images = torch.zeros(32, 32, 3), torch.ones(32, 32, 3)
    answers = [
        '{"instruction": "make it day", "reason": "dark"}',
        '{"instruction": "make it night", "reason": "light"}',
    ]
    lessons = [(image, "hours later", answer) for image, answer in zip(images, answers, strict=True)]
    return load_mllm(tiny_mllms.train_llava(tmp_path_factory.mktemp("taught"), lessons)), images


def test_explains_the_same_wish_differently_for_different_images(trained_mllm):
    mllm, images = trained_mllm
    progress = []
    dark = explain(mllm, images[0], "hours later", progress=lambda *at: progress.append(at))
    assert dark == Explanation("make it day", "dark")
    assert progress
    assert explain(mllm, images[1], "hours later") == Explanation("make it night", "light")
    assert explain(mllm, images[0], "hours later") == dark


def test_falls_back_when_the_answer_is_cut_off(trained_mllm):
    mllm, images = trained_mllm
    found = explain(mllm, images[0], "hours later", 8)
    assert found.fallback
    assert found.instruction == "hours later"
    assert "There was no JSON in it." in found.warning


def test_falls_back_with_an_untrained_model(tmp_path):
    mllm = load_mllm(tiny_mllms.llava(tmp_path))
    found = explain(mllm, IMAGE, "hours later", 12)
    assert found.fallback
    assert found.instruction == "hours later"
    assert found.warning.startswith(f"{mllm.name} gave no usable answer")


def test_rejects_images_of_another_shape(tmp_path):
    mllm = load_mllm(tiny_mllms.llava(tmp_path))
    with pytest.raises(ModelError, match="an image of shape"):
        explain(mllm, IMAGE[..., :2], "hours later")
