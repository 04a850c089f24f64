"""Reading lists of edits from answers and lines: forms, unusable text, what is left out."""

import json
import time
from contextlib import suppress

import pytest

from instructbrush.core.errors import InstructionError
from instructbrush.core.reasoning.edit_lists import Edit, EditList, contradict, read_edits, split_sentence
from instructbrush.core.reasoning.edited_objects import parse_objects
from instructbrush.core.reasoning.explain import MOST_LETTERS
from instructbrush.core.reasoning.explain_edits import clauses
from instructbrush.core.reasoning.object_grammar import objects_of

TWO = [Edit("make it night"), Edit("add snow")]
ROOM = [Edit("remove the clothes", "clothes"), Edit("make the bed tidy", "bed")]


@pytest.mark.parametrize(
    "answer",
    [
        "1. make it night\n2. add snow",
        "1) make it night.\n 2) add snow.",
        "(1) make it night\n(2) add snow",
        "Step 1: make it night\nStep 2: add snow",
        "- make it night\n- add snow",
        "Here are the edits:\n\n* **make it night**\n* **add snow**\n\nI hope this helps!",
        "• make it night\n• add snow",
        "1. make it night 2. add snow",
        "a) make it night\nb) add snow",
        "(A) make it night\n(B) add snow",
        "a. make it night\nb. add snow",
        "i) make it night\nii) add snow",
        "a) make it night b) add snow",
        "Step 1 - make it night\nStep 2 - add snow",
        "Step 1 – make it night. Step 2 – add snow.",
        "Edit #1: make it night\nEdit #2: add snow",
        "[1] make it night\n[2] add snow",
        "1 - make it night\n2 - add snow",
        "**1.** make it night\n**2.** add snow",
        "### Step 1: make it night\n### Step 2: add snow",
        "**Step 1:** make it night\n**Step 2:** add snow",
        "+ make it night\n+ add snow",
        "1. **make it night** - this shows that hours have passed\n2. **add snow**: this is winter",
        "Sure, here are the edits: make it night, add snow",
        "Sure! 1) First, make it night 2) Then add snow",
        "make it night and add snow",
        "make it night, then add snow.",
        "make it night, add snow",
        "make it night; add snow",
        "make it night. add snow.",
        "First, I would make it night and then I would add snow. That fits the wish.",
        "Edits: make it night, add snow",
        '{"edits": [{"instruction": "make it night"}, {"instruction": "add snow"}]}',
        '{"edits": ["make it night", "add snow"]}',
        '{"Instructions": [{"Edit": "make it night", "region": "whole picture"}, {"edit": "add snow"}]}',
        '["make it night", "add snow"]',
        '[{"instruction": "make it night", "region": null}, {"instruction": "add snow", "region": "none"}]',
        '{"instruction": "make it night"}\n{"instruction": "add snow"}',
        '```json\n{"steps": ["make it night", 3, "add snow"]}\n```',
        '{"edits": "1. make it night\\n2. add snow"}',
        '{"edits": {"1": "make it night", "2": "add snow"}}',
        '{"edits": {"1": {"instruction": "make it night"}, "2": {"instruction": "add snow"}, "reason": "x"}}',
        '{"edits": {"instructions": ["make it night", "add snow"]}}',
        '{"1": "make it night", "2": "add snow"}',
        '{"step_1": {"edit": "make it night"}, "step_2": {"edit": "add snow"}, "reason": "hours"}',
        'A first idea: {"edits": ["blur it"]}. No: {"edits": ["make it night", "add snow"]} {"ok": 1}',
        "<think>1. blur it\n2. invert it</think>1. make it night\n2. add snow",
        '<think>So {"edits": ["blur it"]}?</think>\n["make it night", "add snow"]',
    ],
)
def test_reads_lists_of_many_forms(answer):
    assert list(read_edits(answer, 4, from_model=True).edits) == TWO


@pytest.mark.parametrize(
    "text",
    [
        "remove the clothes | clothes\nmake the bed tidy | bed",
        "1. remove the clothes | clothes\n2. make the bed tidy | bed",
        json.dumps({"edits": [{"instruction": e.instruction, "region": e.region} for e in ROOM]}),
        json.dumps([{"edit": e.instruction, "object": [e.region]} for e in ROOM]),
        json.dumps({"edits": [str(e) for e in ROOM]}),
        "remove the clothes | clothes; make the bed tidy | bed",
        "| Step | Edit | Object |\n|---|:---:|---|\n| 1 | remove the clothes | clothes |\n"
        "| 2 | make the bed tidy | bed |",
        "Edit | Object\n--- | ---\nremove the clothes | clothes\nmake the bed tidy | bed",
    ],
)
@pytest.mark.parametrize("from_model", [False, True])
def test_reads_regions(text, from_model):
    assert list(read_edits(text, 4, from_model).edits) == ROOM
    assert read_edits(read_edits(text, 4, from_model).text, 4, from_model).edits == tuple(ROOM)


def test_an_answer_of_lines_with_regions_keeps_edits_without_one():
    edits = (Edit("make the hat red", "hat"), Edit("make it night"), Edit("remove the dog", "dog"))
    answer = f"Here are the edits:\n{EditList(edits).text}\nI hope this helps!"
    assert read_edits(answer, 4, from_model=True).edits == edits
    answer = "Here is the edit:\nmake the hat red | hat\nI hope this helps!"
    assert read_edits(answer, 4, from_model=True).edits == edits[:1]


def test_an_object_below_edits_is_a_list_of_one():
    answer = '{"edits": {"instruction": "make the hat red", "region": "hat"}, "reason": "it is dull"}'
    assert read_edits(answer, 4, from_model=True) == EditList(
        (Edit("make the hat red", "hat"),), "it is dull"
    )


@pytest.mark.parametrize(
    ("line", "instruction"),
    [
        ("1. **Recolor the hat**: make the hat red", "make the hat red"),
        ("1. **Recolor the hat:** make the hat red", "make the hat red"),
        ("- **Hat** - please make the hat red.", "make the hat red"),
        ("1. Recoloring: make the hat red", "make the hat red"),
        ("1. **Make the hat red** - that is more festive", "Make the hat red"),
        ("1. **Make the hat red**: that is more festive", "Make the hat red"),
        # The title says what "it" is.
        ("1. **Hat**: make it red", "Hat: make it red"),
        ("1. Hat: make it red", "Hat: make it red"),
        ("1. add a sign that says: open the door", "add a sign that says: open the door"),
        ("1. **make** the hat red", "make** the hat red"),
    ],
)
def test_reads_the_command_behind_a_title(line, instruction):
    for from_model in (False, True):
        assert [edit.instruction for edit in read_edits(line, 4, from_model).edits] == [instruction]


def test_keeps_regions_in_other_scripts():
    (edit,) = read_edits("make the cat red | кот", 4).edits
    assert edit.region == "кот"


@pytest.mark.parametrize("region", ["", "whole picture", "the entire image", "NONE", "n/a", "x" * 61])
def test_drops_regions_that_name_no_object(region):
    text = json.dumps({"edits": [{"instruction": "make it night", "region": region}]})
    assert read_edits(text, 4).edits == (TWO[0],)


def test_keeps_the_reason_of_the_answer():
    answer = '{"edits": ["make it night"], "reason": "hours\\nhave passed"}'
    assert read_edits(answer, 4, from_model=True) == EditList((TWO[0],), "hours have passed")
    answer = '{"instruction": "make it night", "reason": "hours have passed"}'
    assert read_edits(answer, 4, from_model=True) == EditList((TWO[0],), "hours have passed")


@pytest.mark.parametrize(
    "line",
    ["it should be night", "a red hat", "make the hat red and the star blue", "add eyes and a smile to it"],
)
def test_a_line_without_a_second_verb_is_one_edit(line):
    assert [edit.instruction for edit in read_edits(line, 4).edits] == [line]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "There was no edit in it."),
        (" \n ", "There was no edit in it."),
        ("{}", "There was no edit in it."),
        ('{"edits": []}', "There was no edit in it."),
        ("[1, 2]", "There was no edit in it."),
        ("The picture shows a star and a circle.", "There was no edit in it."),
        ("asdf qwer", "There was no edit in it."),
        ("I'm sorry, but I can't help with that.", "It names no edit."),
        ("I’m sorry, but I can’t make the hat red.", "It names no edit."),
        ("As an AI language model, I cannot edit pictures.", "It names no edit."),
        ("None.", "It names no edit."),
        ("There is nothing to change in this picture.", "It names no edit."),
        ('["none"]', "It names no edit."),
        ("<think>1. make it night", "It reached the token limit before it answered: allow more tokens."),
    ],
)
def test_rejects_answers_without_an_edit(answer, message):
    with pytest.raises(InstructionError) as caught:
        read_edits(answer, 4, from_model=True)
    assert str(caught.value) == message


def test_leaves_out_repeated_empty_and_long_edits():
    long = "make it " + "very " * 50 + "red"
    found = read_edits(f"1. make it night\n2. ...\n3. Make it night.\n4. {long}\n5. add snow\n6. none", 4)
    assert list(found.edits) == TWO
    assert found.remarks == (
        "'Make it night' is named twice.",
        f"'{long[:60]}'... is longer than {MOST_LETTERS} letters, so it is left out.",
    )


def test_the_same_edit_of_another_object_is_no_repetition():
    assert len(read_edits("make it red | hat\nmake it red | star", 4).edits) == 2


def test_leaves_out_edits_that_contradict_an_earlier_one():
    found = read_edits("make the hat red\nmake it brighter\nmake it darker\nmake the hat blue", 4)
    assert [edit.instruction for edit in found.edits] == ["make the hat red", "make it brighter"]
    assert found.remarks == (
        "'make it darker' contradicts 'make it brighter', so it is left out.",
        "'make the hat blue' contradicts 'make the hat red', so it is left out.",
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("add a hat", "remove the hat", True),
        ("add a hat to the star", "delete the hat", True),
        ("add a dog to the sand", "remove the dog from the grass", False),
        ("put a dog on the sofa", "remove the dog on the floor", False),
        ("add a dog to the grass", "remove the dog from the grass", True),
        ("make it night", "turn the picture into day", True),
        ("paint the wall red", "make the wall green", True),
        ("make the star bigger", "make the star smaller", True),
        ("make the star bigger", "make the circle smaller", False),
        ("make the star bigger", "make the star red", False),
        ("make it night", "make it darker", False),
        ("make it warmer", "make it warm", False),
        ("add a hat", "add a hat", False),
        ("blur the image", "sharpen the image", False),
    ],
)
def test_tells_contradictions(first, second, expected):
    assert contradict(Edit(first), Edit(second)) is expected
    assert contradict(Edit(second), Edit(first)) is expected


def test_edits_of_different_regions_do_not_contradict():
    assert not contradict(Edit("make it red", "hat"), Edit("make it blue", "star"))
    assert contradict(Edit("make it red", "hat"), Edit("make it blue", "the hat"))
    assert contradict(Edit("make it red", "hat"), Edit("make it blue"))


def test_keeps_both_halves_of_a_move():
    found = read_edits("remove the dog from the grass and add the dog to the sand", 4, from_model=True)
    assert [edit.instruction for edit in found.edits] == [
        "remove the dog from the grass",
        "add the dog to the sand",
    ]
    assert not found.remarks


def test_cuts_long_lists():
    found = read_edits("\n".join(f"add item {number}" for number in range(7)), 3)
    assert [edit.instruction for edit in found.edits] == ["add item 0", "add item 1", "add item 2"]
    assert found.remarks == ("Only the first 3 of 7 edits are used.",)


@pytest.mark.parametrize(
    "answer",
    [
        "{" * 600_000,
        "[" * 600_000,
        '{"' * 300_000,
        "1. a " * 200_000,
        "make it night and " * 50_000,
        "- x\n" * 200_000,
        f"make it{' ' * 100_000}x",
        f"1. make it{' ' * 100_000}x",
        f"make it {chr(9) * 50_000};{' ' * 50_000}x",
        "make it night, \n" * 50_000,
        f"make it{chr(10) * 100_000}x | y",
        f"1. {'*' * 100_000} x",
        f"{'*' * 100_000}: x\n{'|' * 100_000}",
        json.dumps({"edits": [f"make it{' ' * 100_000}x"]}),
        '{"edits": ' * 900 + '"make it night"' + "}" * 900,
    ],
)
def test_reads_huge_answers_fast(answer):
    start = time.process_time()
    for read in (split_sentence, objects_of, clauses):
        read(answer[:100_000])
    with suppress(InstructionError):
        parse_objects(f"Answer {answer}")
    with suppress(InstructionError):
        assert len(read_edits(answer, 4, from_model=True).edits) <= 4
    assert time.process_time() - start < 5


def test_splits_a_sentence_into_commands():
    text = "Please remove the hat and make the star blue, then frame it. It is nice."
    assert split_sentence(text) == ["remove the hat", "make the star blue", "frame it."]
