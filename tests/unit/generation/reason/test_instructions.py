import pytest

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.engine.stage import Row
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.language.models import UNUSABLE, Answer, NoAnswer
from instructbrush.core.generation.reason.instructions import (
    TOO_FEW,
    Asking,
    candidates_stage,
    choice_stage,
)
from instructbrush.tests.unit.generation.reason.scripted_builds import Replies

PAIR = {
    "id": "a",
    "part": 1,
    "caption": "a woman with sunglasses",
    "instruction": "turn the sunglasses into a face mask",
    "edited_caption": "a woman with a face mask",
}
DIRECT = "Turn the sunglasses into a face mask."
WISHES = (
    "She has to breathe in the dust.",
    "The nurse is at work.",
    "A virus goes round.",
    "It is smoky here.",
)


def candidates(model: Replies, number: int = 3, fewest: int = 2, tries: int = 2) -> list[str]:
    (made,) = candidates_stage(Asking(model, tries), number, fewest).start()(PAIR)
    return list(made["candidates"])


def test_each_candidate_is_a_sample_of_one_question() -> None:
    model = Replies(*WISHES[:3])
    assert candidates(model) == list(WISHES[:3])
    assert [question.sample for question in model.questions] == [0, 1, 2]
    assert len({question.text for question in model.questions}) == 1
    assert all(question.temperature > 0 for question in model.questions)
    for part in (
        "a woman with sunglasses",
        "a woman with a face mask",
        "turn the sunglasses into a face mask",
    ):
        assert part in model.questions[0].text


def test_direct_candidates_are_asked_again_and_repeated_ones_count_once() -> None:
    model = Replies(DIRECT, WISHES[0], "she has to breathe in the dust", WISHES[1])
    assert candidates(model) == list(WISHES[:2])
    assert [question.attempt for question in model.questions] == [0, 1, 0, 0]


def test_a_candidate_without_usable_answer_does_not_end_the_row() -> None:
    assert candidates(Replies(DIRECT, DIRECT, WISHES[0], WISHES[1])) == list(WISHES[:2])


def test_too_few_candidates_are_refused() -> None:
    with pytest.raises(Refused) as refused:
        candidates(Replies(WISHES[0], WISHES[0], DIRECT, DIRECT))
    assert refused.value.reason == TOO_FEW
    assert "1 of 3" in refused.value.detail and "repeats" in refused.value.detail


def test_a_row_without_any_candidate_says_why() -> None:
    with pytest.raises(Refused) as refused:
        candidates(Replies(*[DIRECT] * 6))
    assert refused.value.reason == UNUSABLE

    class Silent(Replies):
        def ask(self, question: object) -> Answer:
            raise NoAnswer(detail="timed out")

    with pytest.raises(NoAnswer):
        candidates(Silent())


@pytest.mark.parametrize(("number", "fewest"), [(0, 0), (2, 3), (3, 0)])
def test_rejects_numbers_of_candidates_that_make_no_sense(number: int, fewest: int) -> None:
    with pytest.raises(BuildError, match="out of range"):
        candidates_stage(Asking(Replies()), number, fewest)


def choose(model: Replies, found: tuple[str, ...] = WISHES) -> Row:
    (made,) = choice_stage(Asking(model, 2)).start()({**PAIR, "candidates": list(found)})
    return made


def test_the_chosen_candidate_becomes_the_instruction() -> None:
    model = Replies("I choose number **3**.")
    assert choose(model)["reasoning"] == WISHES[2]
    assert all(f"{number}. {wish}" in model.questions[0].text for number, wish in enumerate(WISHES, 1))


@pytest.mark.parametrize("answer", ["", "none of them", "5", "2 or 3", "the third"])
def test_a_choice_that_cannot_be_read_is_asked_again(answer: str) -> None:
    assert choose(Replies(answer, "1"))["reasoning"] == WISHES[0]
    with pytest.raises(Refused, match=UNUSABLE):
        choose(Replies(answer, answer))


def test_a_single_candidate_needs_no_choice() -> None:
    assert choose(Replies(), WISHES[:1])["reasoning"] == WISHES[0]


def test_rows_of_other_parts_pass_through() -> None:
    row = {"id": "a", "part": 2, "caption": None, "instruction": None, "edited_caption": None}
    assert candidates_stage(Asking(Replies())).start()(row) == [{"candidates": None}]
    assert choice_stage(Asking(Replies())).start()({**row, "candidates": None}) == [{"reasoning": None}]
