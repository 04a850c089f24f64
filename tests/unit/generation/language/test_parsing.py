"""What is read out of the answers of language models."""

import pytest

from instructbrush.core.generation.language.parsing import (
    MOST_ITEM,
    choice_of,
    json_object,
    json_objects,
    rows_of,
    sentence_of,
    text_field,
    unquoted,
)


@pytest.mark.parametrize(
    "answer",
    [
        '{"selected": "cat", "n": 1}',
        'Sure! Here it is:\n```json\n{"selected": "cat", "n": 1}\n```\nAnything else? {"selected": "dog"}',
        '<think>maybe {"selected": "dog"}</think> {"selected": "cat", "n": 1}',
        '[{"selected": "cat", "n": 1}, {"selected": "dog"}]',
        'A set {1, 2} and {"other": 2} come first. {"selected": "cat", "n": 1}',
    ],
)
def test_reads_the_first_json_object_with_the_keys(answer):
    assert json_object(answer, ("selected",)) == {"selected": "cat", "n": 1}


def test_reads_all_json_objects_but_none_inside_of_others():
    assert json_objects('{"a": {"b": 1}} and [{"c": 2}, 3]') == [{"a": {"b": 1}}, {"c": 2}]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "it is empty"),
        ("   \n", "it is empty"),
        ("<think>let me see", "it only holds thoughts"),
        ("no braces", "it holds no JSON object"),
        ('{"selected": "cat"', "it holds no JSON object"),
        ("[1, 2]", "it holds no JSON object"),
        ('{"a": 1} {"b": 2}', 'its JSON lacks "selected"'),
        ("{" * 100_000, "it holds no JSON object"),
    ],
)
def test_says_why_there_is_no_json_object(answer, problem):
    with pytest.raises(ValueError, match=f"^{problem}$"):
        json_object(answer, ("selected",))


def test_reads_a_text_field():
    assert text_field({"a": ' "a red\n cat" '}, "a") == "a red cat"
    for value, problem in (
        (None, "is no text"),
        (3, "is no text"),
        ("", "is empty"),
        ("x" * 1001, "has 1001"),
    ):
        with pytest.raises(ValueError, match=f'"a" {problem}'):
            text_field({"a": value}, "a")


def test_keeps_quotes_inside_of_a_text():
    assert unquoted('"A" and "B"') == '"A" and "B"'
    assert unquoted('**"go"**') == "go" and unquoted("“go”") == "go" and unquoted("'s") == "'s"


def test_reads_lines_of_fields_between_semicolons():
    answer = "Rows:\n1. a cat; add a hat; a cat with a hat\n- a; b\na dog ; make it night; a dog at night;\n"
    expected = [("a cat", "add a hat", "a cat with a hat"), ("a dog", "make it night", "a dog at night")]
    assert rows_of(answer * 2) == expected
    assert rows_of("a; b", 2) == [("a", "b")]
    assert rows_of('["a"; "b"; "c"]') == [("a", "b", "c")]


@pytest.mark.parametrize("answer", ["a, b, c", "a; ; c", ";;", "a; b; c; d"])
def test_says_that_no_line_has_the_fields(answer):
    with pytest.raises(ValueError, match="no line holds 3 fields between semicolons"):
        rows_of(answer)


def test_reads_one_sentence():
    for answer in (
        '"make it night"',
        "Answer: make it night",
        "<think>hm</think>\nmake it night\n",
        "```\nmake it night\n```",
    ):
        assert sentence_of(answer) == "make it night"
    with pytest.raises(ValueError, match="it has 2 lines; one is wanted"):
        sentence_of("make it night\nbecause it is dark")
    with pytest.raises(ValueError, match=f"has {MOST_ITEM + 1} characters"):
        sentence_of("x" * (MOST_ITEM + 1))
    with pytest.raises(ValueError, match="at most 5"):
        sentence_of("123456", 5)
    with pytest.raises(ValueError, match="it is empty"):
        sentence_of('""')


@pytest.mark.parametrize(
    ("answer", "number"),
    [("2", 2), ("Candidate 3.", 3), ("<think>1 or 2</think> **2**", 2), ("2, the 2nd", 2)],
)
def test_reads_the_number_of_a_choice(answer, number):
    assert choice_of(answer, 3) == number


@pytest.mark.parametrize("answer", ["the first", "7", "2.5", "1 or 2", "-1"])
def test_says_that_there_is_no_choice(answer):
    with pytest.raises(ValueError, match="from 1 to 3; one is wanted"):
        choice_of(answer, 3)
