"""Stage I: examples, questions, and what becomes of malformed answers."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instructbrush.core.errors import BuildError, DataError
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.export import export_table
from instructbrush.core.generation.engine.run import run_build
from instructbrush.core.generation.engine.stage import Row
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.ultraedit.examples import (
    EXAMPLE_COLUMNS,
    Draw,
    draw,
    read_pool,
    same_words,
    seed_examples,
)
from instructbrush.core.generation.ultraedit.instructions import (
    CaptionStage,
    expansion_stage,
    instruction_stage,
    parse_edits,
    parse_examples,
)
from instructbrush.core.generation.ultraedit.prompts import CAPTION_LABEL, writing_prompt
from instructbrush.tests.unit.generation.ultraedit.scripted import Scenes, Scripted

CAPTION = "a red circle on grass"
GOOD = f"{CAPTION}; make the circle blue; a blue circle on grass"
SHOWN = Draw(("Make it a stormy evening",), seed_examples()[:2])

# Answer -> what is wrong with it.
MALFORMED = {
    "": "it is empty",
    "<think>three edits, hm</think>": "it is empty",
    "<think>three edits, hm": "it only holds thoughts",
    "Sure! Here are some wonderful ideas for your image.": "no line holds 3 fields",
    "make the circle blue; a blue circle on grass": "no line holds 3 fields",
    '[{"instruction": "make the circle blue"}]': "no line holds 3 fields",
    f"{seed_examples()[0]}": "it edits another caption",
    f"{CAPTION}; make it a stormy evening!; a red circle on grass in a storm": "is one of the examples",
    f"{CAPTION}; A red circle on grass.; a blue circle on grass": "is a caption",
    f"{CAPTION}; a blue circle on grass; a blue circle on grass": "is a caption",
    f"{CAPTION}; make the circle rounder; A red circle, on grass": "the new caption is the old one",
    f"{CAPTION}; blue; a blue circle on grass": "'blue' is no instruction",
    f"{CAPTION}; make it {'very ' * 80}blue; a blue circle on grass": "characters; at most 300 are read",
    f"{CAPTION}; make the circle blue; {'blue ' * 70}circle": "the new caption has 71 words",
    f"{CAPTION}; make the circle blue; blue": "the new caption has 1 words",
}


@pytest.mark.parametrize("answer", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_answers_say_what_is_wrong(answer: str) -> None:
    with pytest.raises(ValueError, match=MALFORMED[answer]):
        parse_edits(answer, CAPTION, SHOWN, (3, 60))


@pytest.mark.parametrize("answer", MALFORMED, ids=range(len(MALFORMED)))
def test_asks_again_after_malformed_answers_and_refuses_the_row_after_the_last(answer: str) -> None:
    row = {"id": "row", "source_caption": CAPTION}
    mended = Scripted(bad=2, text=answer)
    assert len(start(mended)(row)) == 3
    assert [question.attempt for question in mended.asked] == [0, 1, 2]
    with pytest.raises(Refused) as refusal:
        start(Scripted(bad=9, text=answer))(row)
    assert refusal.value.reason == "the answer cannot be used"
    assert MALFORMED[answer] in refusal.value.detail


def start(model: Scripted):
    return instruction_stage(model, seed_examples(), (3, 60), 3, 3).start()


def test_keeps_the_usable_edits_of_an_answer_once_and_at_most_three() -> None:
    lines = [
        "Here you are:",
        f"1. {GOOD}",
        f'2. "{CAPTION}"; "Make the circle blue."; "a blue circle on grass"',
        f"3. {CAPTION}; make the circle rounder; {CAPTION}",
        f"4. {CAPTION}; turn the circle into a star; a red star on grass;",
        f"5. {CAPTION}; add a hat; a red circle with a hat on grass",
        f"6. {CAPTION}; make it night; a red circle on grass at night",
    ]
    edits = parse_edits("\n".join(lines), CAPTION, SHOWN, (3, 60))
    assert [edit.instruction for edit in edits] == [
        "make the circle blue",
        "turn the circle into a star",
        "add a hat",
    ]
    assert edits[1].edited_caption == "a red star on grass"


def test_draws_50_instructions_and_10_examples_by_seed() -> None:
    pool = [*seed_examples(), *(type(seed_examples()[0])(f"c {n}", f"do {n}", f"d {n}") for n in range(100))]
    drawn = draw(pool, 1)
    assert (len(drawn.instructions), len(drawn.examples)) == (50, 10)
    assert len({*drawn.instructions, *(example.instruction for example in drawn.examples)}) == 60
    assert draw(pool, 1) == drawn != draw(pool, 2)


def test_small_pools_are_shown_whole() -> None:
    drawn = draw(seed_examples()[:4], 1)
    assert {example.instruction for example in drawn.examples} == set(drawn.instructions)


def test_hand_written_examples_are_whole_and_different() -> None:
    examples = seed_examples()
    assert len({same_words(example.instruction) for example in examples}) == len(examples) >= 50
    assert all(example.caption != example.edited_caption for example in examples)


def test_questions_hold_the_caption_all_examples_and_the_form() -> None:
    drawn = draw(seed_examples(), 3)
    text = writing_prompt(CAPTION, drawn.instructions, drawn.examples)
    assert f"{CAPTION_LABEL} {CAPTION}\n" in text
    assert all(f"- {instruction}\n" in text for instruction in drawn.instructions)
    assert all(f"{example}\n" in text for example in drawn.examples)
    assert '"original caption; edit instruction; new caption"' in text


def test_each_row_shows_other_examples_and_the_same_ones_again() -> None:
    model = Scripted()
    function = start(model)
    for name in ("a", "b", "a"):
        function({"id": name, "source_caption": CAPTION})
    first, second, third = (question.text for question in model.asked)
    assert first == third != second


def captions(row: Row, words: tuple[int, int] = (3, 8), side: int = 128) -> list[dict[str, object]]:
    return [dict(each) for each in CaptionStage("image", "caption", words, side)()(row)]


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (None, "there is no caption"),
        (" \n", "there is no caption"),
        ("a circle", "the caption is too short"),
        ("one two three four five six seven eight nine", "the caption is too long"),
    ],
)
def test_refuses_captions_of_unusable_length(caption: str | None, reason: str) -> None:
    (row,) = Scenes(1).rows(0, 1)
    with pytest.raises(Refused) as refusal:
        captions({**row, "caption": caption})
    assert refusal.value.reason == reason


def test_cuts_the_square_and_cleans_the_caption() -> None:
    (row,) = Scenes(1).rows(0, 1)
    (made,) = captions({**row, "caption": " a red;\n circle on grass. "})
    assert made["source_caption"] == "a red, circle on grass"
    with pytest.raises(Refused, match="too small"):
        captions({**row, "caption": CAPTION}, side=512)


def test_expands_the_hand_written_examples_to_a_pool(tmp_path: Path) -> None:
    from instructbrush.cli.build.ultraedit_examples import Questions

    model = Scripted()
    build = Build(tmp_path / "pool", Questions(3), (expansion_stage(model),))
    run_build(build)
    export_table(build, {name: name for name in EXAMPLE_COLUMNS}, tmp_path / "pool" / "data")
    pool = read_pool([tmp_path / "pool"])
    assert len(model.asked) == 3
    assert pool[: len(seed_examples())] == seed_examples()
    assert len({same_words(example.instruction) for example in pool}) == len(pool) > 70
    assert len({question.text for question in model.asked}) == 3


def test_new_examples_must_be_new_and_whole() -> None:
    with pytest.raises(ValueError, match="none of its examples is new"):
        parse_examples("\n".join(map(str, seed_examples()[:5])))
    assert len(parse_examples(f"{GOOD}\n{GOOD}")) == 1


def test_pools_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no .parquet file"):
        read_pool([tmp_path])
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column 'original_caption'"):
        read_pool([tmp_path])
