import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.engine.stage import Row
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.language.models import UNUSABLE, Answer
from instructbrush.core.generation.reason.instructions import Asking
from instructbrush.core.generation.reason.objects import (
    NOT_FOUND,
    BoxLimits,
    boxes_stage,
    decision_stage,
    edited_caption,
    read_replacement,
    with_article,
)
from instructbrush.core.regions.boxes import Box
from instructbrush.core.regions.finder import FoundObject
from instructbrush.tests.unit.generation.reason.scripted_builds import Replies

OBJECTS = ["butterfly", "red flower"]
HONEY = "it should make honey"


def said(selected: object, target: object, reasoning: object = HONEY) -> str:
    """The answer to Eq. 6 as JSON."""
    return json.dumps({"selected": selected, "target": target, "reasoning": reasoning})


GOOD = said("butterfly", "bee", "somebody here should make honey")
# Answers that cannot be used, and what is said about them.
MALFORMED = {
    "": "it is empty",
    "The butterfly should become a bee.": "no JSON object",
    GOOD[:40]: "no JSON object",
    '{"selected": "butterfly", "target": "bee"}': 'lacks "reasoning"',
    said("moth", "bee"): "none of the objects",
    said(["butterfly"], "bee"): '"selected" is no text',
    said("butterfly", ""): '"target" is empty',
    said("butterfly", "the Butterfly"): "selected object itself",
    said("butterfly", "none"): "no name of an object",
    said("butterfly", "a bee that sits on the red flower in the sun"): "no name of an object",
    said("butterfly", "bee", "replace the butterfly with a bee"): "in a command",
    said("butterfly", "bee", "turn the butterfly into a bee"): "repeats",
    said("butterfly", "bee", "make it a small bee"): "in a command",
    said("butterfly", "bee", 7): '"reasoning" is no text',
    "<think>" + GOOD: "only holds thoughts",
}


def decide(*answers: str | Answer, found: Sequence[str] = OBJECTS) -> Row:
    row = {
        "id": "a",
        "part": 3,
        "caption": "a butterfly on a red flower",
        "found": list(found),
        "boxes": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        "reasoning": None,
        "instruction": None,
        "edited_caption": None,
    }
    (made,) = decision_stage(Asking(Replies(*answers))).start()(row)
    return made


def test_a_decision_names_object_target_box_and_captions() -> None:
    made = decide(f"Sure! ```json\n{GOOD}\n```")
    assert made["selected_object"] == "butterfly"
    assert made["target_object"] == "bee"
    assert made["box"] == [1.0, 2.0, 3.0, 4.0]
    assert made["reasoning"] == "somebody here should make honey"
    assert made["edited_caption"] == "a bee on a red flower"
    assert "butterfly" in made["instruction"] and made["instruction"].endswith("a bee")
    other = decide(GOOD.replace('"butterfly"', '"The red flowers"'))
    assert other["selected_object"] == "red flower" and other["box"] == [5.0, 6.0, 7.0, 8.0]


def test_punctuation_within_a_target_is_left_out() -> None:
    assert read_replacement(said("butterfly", "a small, yellow bee."), OBJECTS).target == "small yellow bee"


@pytest.mark.parametrize("answer", MALFORMED)
def test_a_malformed_answer_is_asked_again(answer: str) -> None:
    with pytest.raises(ValueError, match=MALFORMED[answer]):
        read_replacement(answer, OBJECTS)
    assert decide(answer, GOOD)["target_object"] == "bee"


def test_a_row_without_a_usable_answer_is_refused_with_the_last_problem() -> None:
    with pytest.raises(Refused) as refused:
        decide(*list(MALFORMED)[:3])
    assert refused.value.reason == UNUSABLE
    assert "no JSON object" in refused.value.detail


def test_an_answer_that_was_cut_off_may_be_longer_the_next_time() -> None:
    model = Replies(Answer(GOOD[:40], cut_off=True), GOOD)
    row = {"id": "a", "part": 2, "caption": "", "found": OBJECTS, "boxes": [0.0] * 8}
    row |= dict.fromkeys(("reasoning", "instruction", "edited_caption"))
    decision_stage(Asking(model)).start()(row)
    assert [question.attempt for question in model.questions] == [0, 1]
    assert model.questions[1].most_tokens == 2 * model.questions[0].most_tokens


def test_rows_of_pairs_pass_through_the_decision() -> None:
    row = {"id": "a", "part": 1, "caption": "c", "found": None, "boxes": None}
    row |= {"reasoning": "r", "instruction": "i", "edited_caption": "e"}
    (made,) = decision_stage(Asking(Replies())).start()(row)
    assert (made["reasoning"], made["instruction"], made["edited_caption"]) == ("r", "i", "e")


class Finder:
    """A finder with prepared objects."""

    name = "prepared finder"

    def __init__(self, *objects: tuple[str, float, Box]) -> None:
        self.objects = [FoundObject(phrase, score, box, torch.ones(1, 1)) for phrase, score, box in objects]

    def find(
        self, image: torch.Tensor, phrases: Sequence[str], *thresholds: float | None
    ) -> list[FoundObject]:
        return [found for found in self.objects if found.phrase in phrases]


def boxes(pocket_row: Row, *objects: tuple[str, float, Box], limits: BoxLimits | None = None) -> Row:
    row = {**pocket_row, "part": 2, "nouns": ["star", "circle"]}
    finder: Any = Finder(*objects)
    (made,) = boxes_stage(lambda: finder, limits).start()(row)
    return made


def test_the_best_box_of_each_category_is_kept_in_the_captions_order(pocket_row: Row) -> None:
    big, small = Box(0, 0, 64, 64), Box(10, 10, 40, 40)
    other = Box(80, 80, 120, 120)
    made = boxes(pocket_row, ("circle", 0.9, small), ("star", 0.8, other), ("circle", 0.7, big))
    assert made["found"] == ["star", "circle"]
    assert made["boxes"] == [80, 80, 120, 120, 10, 10, 40, 40]
    assert made["scores"] == [0.8, 0.9]
    nearly_equal = boxes(pocket_row, ("circle", 0.9, small), ("circle", 0.85, big))
    assert nearly_equal["boxes"] == [0, 0, 64, 64]


def test_of_categories_with_one_box_the_best_stays(pocket_row: Row) -> None:
    same = Box(10, 10, 40, 40), Box(10, 10, 42, 42)
    made = boxes(pocket_row, ("circle", 0.9, same[0]), ("star", 0.8, same[1]))
    assert made["found"] == ["circle"]
    inside = boxes(pocket_row, ("circle", 0.9, Box(0, 0, 64, 64)), ("star", 0.8, same[0]))
    assert inside["found"] == ["star", "circle"]


def test_boxes_are_widened_within_the_image(pocket_row: Row) -> None:
    limits = BoxLimits(margin=0.25)
    made = boxes(pocket_row, ("circle", 0.9, Box(4, 20, 44, 40)), limits=limits)
    assert made["boxes"] == [0, 15, 54, 45]
    with pytest.raises(BuildError, match="margin"):
        boxes_stage(Finder, BoxLimits(margin=-0.1))  # pyright: ignore[reportArgumentType]


def test_boxes_of_the_wrong_size_do_not_count(pocket_row: Row) -> None:
    tiny, whole = Box(0, 0, 5, 5), Box(0, 0, 128, 128)
    with pytest.raises(Refused, match=NOT_FOUND):
        boxes(pocket_row, ("circle", 0.9, tiny), ("star", 0.9, whole))
    made = boxes(pocket_row, ("star", 0.9, whole), limits=BoxLimits(most_area=1.0))
    assert made["found"] == ["star"]
    with pytest.raises(BuildError, match="out of range"):
        boxes_stage(Finder, BoxLimits(least_area=0.9, most_area=0.1))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("caption", "selected", "target", "expected"),
    [
        ("a red circle and an oval", "oval", "star", "a red circle and a star"),
        ("A red circle on grass", "red circle", "oval", "an oval on grass"),
        ("the cat near two dogs", "dogs", "birds", "the cat near two birds"),
        ("a cat", "dog", "bird", "a bird"),
        ("a red circle", "red circle", "orange circle", "an orange circle"),
        ("a carpet and a car", "car", "bus", "a carpet and a bus"),
        ("a large, brown dog on grass", "large brown dog", "fox", "a fox on grass"),
        ("a dog, a dog and a dog", "dog", "fox", "a fox, a dog and a dog"),
    ],
)
def test_the_target_takes_the_objects_place_in_the_caption(
    caption: str, selected: str, target: str, expected: str
) -> None:
    assert edited_caption(caption, selected, target) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("bee", "a bee"),
        ("oval", "an oval"),
        ("flowers", "flowers"),
        ("glass", "a glass"),
        ("the sun", "the sun"),
        ("bus", "a bus"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("one-eyed cat", "a one-eyed cat"),
    ],
)
def test_articles_fit(phrase: str, expected: str) -> None:
    assert with_article(phrase) == expected
