"""Questions, and asking until an answer can be used."""

import pickle
from dataclasses import dataclass, field, replace

import pytest

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.language.models import Answer, NoAnswer, Question, ask_for
from instructbrush.core.generation.language.parsing import json_object


@dataclass
class Recited:
    """A model that recites answers."""

    answers: list
    questions: list = field(default_factory=list)
    name: str = "recited"
    fingerprint: str = "0"
    sees_images: bool = False

    def ask(self, question):
        self.questions.append(question)
        return self.answers[len(self.questions) - 1]


def test_asks_again_until_the_answer_can_be_used():
    model = Recited([Answer("hm"), Answer('{"a"', cut_off=True), Answer('{"a": 1}')])
    question = Question("json?", most_tokens=10, sample=4)
    assert ask_for(model, question, json_object) == {"a": 1}
    first, second, third = model.questions
    assert first == question
    assert second == replace(question, attempt=1, temperature=second.temperature) and second.temperature > 0
    assert third == replace(second, attempt=2, most_tokens=20)


def test_keeps_a_higher_temperature():
    model = Recited([Answer("hm"), Answer("{}")])
    ask_for(model, Question("json?", temperature=1.5), json_object)
    assert model.questions[1].temperature == 1.5


def test_refuses_the_row_after_the_last_attempt_and_shows_the_answer():
    model = Recited([Answer("one"), Answer("two"), Answer("three\nfour " * 100)])
    with pytest.raises(Refused) as caught:
        ask_for(model, Question("json?"), json_object, tries=3)
    assert caught.value.reason == "the answer cannot be used"
    assert caught.value.detail.startswith('recited: it holds no JSON object: "three four three')
    assert len(caught.value.detail) < 300 and len(model.questions) == 3


def test_does_not_use_an_answer_that_was_cut_off():
    model = Recited([Answer("1. a\n2. b", cut_off=True)])
    with pytest.raises(Refused) as caught:
        ask_for(model, Question("list?", most_tokens=7), str, tries=1)
    assert "it was cut off after 7 tokens" in caught.value.detail


def test_seeds_differ_in_every_part_of_the_question():
    questions = [
        Question("a"), Question("b"), Question("a", b"1"), Question("a", b"2"), Question("a", sample=1),
        Question("a", attempt=1), Question("a", most_tokens=3), Question("a", temperature=0.5),
    ]  # fmt: skip
    assert len({question.seed for question in questions}) == len(questions)
    assert Question("a").seed == 905363296 and Question("a", temperature=0).seed == 905363296


def test_replaces_characters_that_can_be_neither_sent_nor_stored():
    assert Question("a\x00b\ud800c\nd").text == "a b c\nd"


@pytest.mark.parametrize(
    "wrong",
    [{"most_tokens": 0}, {"temperature": -1}, {"temperature": float("nan")}, {"sample": -1}, {"attempt": -1}],
)
def test_rejects_numbers_out_of_range(wrong):
    with pytest.raises(BuildError, match=r"Question: .* are out of range. Use 1 token or more"):
        Question("a", **wrong)
    with pytest.raises(BuildError, match="0 tries are out of range"):
        ask_for(Recited([]), Question("a"), str, tries=0)


def test_refuses_a_huge_question():
    with pytest.raises(Refused, match="too long"):
        Question("a" * 1_000_001)


def test_refusals_survive_the_way_between_processes():
    for refused in (Refused("reason", "detail"), NoAnswer(detail="detail")):
        again = pickle.loads(pickle.dumps(refused))  # noqa: S301 (our own)
        assert (type(again), again.reason, again.detail) == (type(refused), refused.reason, refused.detail)
