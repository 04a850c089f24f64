"""Wishes that need several edits: lists by models that read tasks, and clauses for those that do not."""

import numpy as np
import pytest
import torch

from instructbrush.core.encoders.mllm import load_mllm
from instructbrush.core.errors import InstructionError
from instructbrush.core.models.builtin import POCKET_READER_FOLDER
from instructbrush.core.reasoning.edit_lists import Edit, EditList
from instructbrush.core.reasoning.explain import TASK
from instructbrush.core.reasoning.explain_edits import clauses, explain_edits
from instructbrush.tests.support import tiny_mllms
from instructbrush.tools.pocket.wishes.wishes import sample_wish
from instructbrush.tools.pocket.wishes.wordings import every_wording

IMAGE = torch.full((32, 32, 3), 0.5)
LIST = (
    '{"edits": [{"instruction": "remove the clothes", "region": "clothes"}, "make the bed"], '
    '"reason": "tidy"}'
)


class Scripted:
    """A model that gives prepared answers and records the questions."""

    name = "scripted"

    def __init__(self, *answers, reads_task=True):
        self.answers = list(answers)
        self.reads_task = reads_task
        self.asked = []

    def answer(self, image, words, max_new_tokens=200, task="", progress=None):
        self.asked.append((words, max_new_tokens, task))
        return self.answers.pop(0)


def single(instruction):
    return f'{{"instruction": "{instruction}", "reason": "because of {instruction}"}}'


def test_asks_for_a_list_once():
    model = Scripted(LIST)
    found, own_words = explain_edits(model, IMAGE, " make the\nroom tidy ", 3, 50)
    assert found == EditList((Edit("remove the clothes", "clothes"), Edit("make the bed")), "tidy")
    assert not own_words
    ((words, tokens, task),) = model.asked
    assert (words, tokens) == ("make the room tidy", 50)
    assert "at most 3," in task


@pytest.mark.parametrize("bad", ["I'm sorry, I can't.", "", '{"edits": []}', "It is a nice room."])
def test_asks_again_after_an_unusable_answer(bad):
    model = Scripted(bad, "1. remove the clothes\n2. make the bed tidy")
    found, own_words = explain_edits(model, IMAGE, "make the room tidy", 3)
    assert [edit.instruction for edit in found.edits] == ["remove the clothes", "make the bed tidy"]
    assert not own_words
    assert "single line of JSON" in model.asked[1][2]


def test_falls_back_to_the_clauses_of_the_wish():
    model = Scripted("well", "I cannot do that.")
    found, own_words = explain_edits(model, IMAGE, "let it be night, and then it should snow", 3)
    assert [edit.instruction for edit in found.edits] == ["let it be night", "it should snow"]
    assert own_words
    assert found.remarks == (
        "scripted gave no usable answer, so your own words are used. It names no edit. "
        "Its last answer began: 'I cannot do that.'. Rephrase the wish, or load a larger model.",
    )


def test_one_edit_is_asked_for_as_before():
    model = Scripted(single("make it night"))
    found, own_words = explain_edits(model, IMAGE, "let hours pass, and it snows", 1)
    assert found == EditList((Edit("make it night"),), "because of make it night")
    assert not own_words
    assert model.asked == [("let hours pass, and it snows", 200, TASK)]
    long = "let hours pass " * 30
    found, own_words = explain_edits(Scripted("no", "no"), IMAGE, long, 1)
    assert own_words and found.edits == (Edit(long.strip()),)
    assert len(found.remarks) == 1


def test_models_for_one_task_explain_each_clause():
    answers = [single("make it night"), "no", "no", single("make it day"), single("make it night")]
    model = Scripted(*answers, reads_task=False)
    wish = "let hours pass; it should snow. wake them all. let hours pass"
    found, own_words = explain_edits(model, IMAGE, wish, 4)
    assert [edit.instruction for edit in found.edits] == ["make it night", "it should snow"]
    assert own_words
    assert found.reason == "because of make it night; because of make it day"
    assert [words for words, _, _ in model.asked] == [
        "let hours pass", "it should snow", "it should snow", "wake them all", "let hours pass",
    ]  # fmt: skip
    warning, contradiction, repetition = found.remarks
    assert warning.startswith("scripted gave no usable answer")
    assert contradiction == "'make it day' contradicts 'make it night', so it is left out."
    assert repetition == "'make it night' is named twice."


def test_says_how_many_wishes_a_model_for_one_task_reads():
    wish = "; ".join(f"make it snow {number}" for number in range(14))
    model = Scripted(*(single(f"add {number}") for number in range(12)), reads_task=False)
    found, _ = explain_edits(model, IMAGE, wish, 12)
    assert len(found.edits) == 12 and found.remarks == ("Only the first 12 of 14 wishes are read.",)


def test_a_wish_without_letters_is_asked_as_it_is():
    model = Scripted(single("make it night"), reads_task=False)
    found, _ = explain_edits(model, IMAGE, "🎄!", 3)
    assert [edit.instruction for edit in found.edits] == ["make it night"]
    assert [words for words, _, _ in model.asked] == ["🎄!"]


@pytest.mark.parametrize(("wish", "most"), [("", 3), (" \n", 1), ("let hours pass", 0)])
def test_rejects_empty_wishes_and_numbers(wish, most):
    with pytest.raises(InstructionError, match="^Explain Instruction: "):
        explain_edits(Scripted(), IMAGE, wish, most)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ("make the room tidy", ["make the room tidy"]),
        ("it is winter and everything is freezing", ["it is winter and everything is freezing"]),
        ("let hours pass, and the odd one should match", ["let hours pass", "the odd one should match"]),
        ("mend the light and also frame it", ["mend the light", "frame it"]),
        ("mend it; it is lonely. it is late!", ["mend it", "it is lonely", "it is late!"]),
        ("mend it\n\nframe it", ["mend it", "frame it"]),
        ("mend it and then frame it", ["mend it", "frame it"]),
    ],
)
def test_splits_wishes_into_clauses(wish, expected):
    assert clauses(wish) == expected


@pytest.mark.parametrize("held_out", [False, True])
def test_no_wish_of_the_pocket_world_is_split(held_out):
    assert all(clauses(wish) == [wish] for wish in every_wording(held_out))


@pytest.fixture(scope="module")
def pocket_reader():
    return load_mllm(POCKET_READER_FOLDER)


def test_only_models_with_a_task_in_their_template_read_tasks(pocket_reader, tmp_path):
    assert not pocket_reader.reads_task
    assert load_mllm(tiny_mllms.llava(tmp_path), lazily=True).reads_task


# Kind of wish -> seed of a scene that the reader understands.
@pytest.mark.parametrize(("kind", "seed"), [("traffic_light", 1), ("equal_sizes", 1), ("hours_passed", 2)])
def test_pocket_reader_names_an_edit_for_each_clause(pocket_reader, kind, seed):
    wish = sample_wish(np.random.default_rng(seed), kind)
    image = torch.from_numpy(wish.before)
    text = f"{wish.words}, and it should hang in a museum. as a diver sees it"
    found, own_words = explain_edits(pocket_reader, image, text, 4)
    assert [edit.instruction for edit in found.edits] == [
        wish.instruction, "add a brown frame", "tint the image blue",
    ]  # fmt: skip
    assert not own_words and not found.remarks
    assert len(found.reason.split("; ")) == 3
