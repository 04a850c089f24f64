"""Which phrases become the init text: Eq. 7, weak phrases, and a user's choice."""

import pytest

from instructbrush.core.errors import LearningError
from instructbrush.core.learning.init_text.choosing import PhraseChoice, candidates, take_phrases
from instructbrush.core.learning.init_text.phrases import Phrase, UniquePhrases, choose_phrases


def found(*rows: tuple[str, str, float], offered: tuple[tuple[str, str, float], ...] = ()) -> UniquePhrases:
    chosen = choose_phrases(tuple(Phrase(text, side, value) for text, side, value in rows), 0.2)
    return UniquePhrases(
        chosen.init_text,
        chosen.before,
        chosen.after,
        chosen.table,
        chosen.eta,
        chosen.remark,
        tuple(Phrase(text, side, value) for text, side, value in offered),
    )


WEAK = found(
    ("a cat", "before", 0.12),
    ("snow", "after", 0.1),
    offered=(("a dog", "before", 0.5), ("fog", "after", 0.15), ("mist", "after", 0.11)),
)


def test_keeps_the_papers_words_where_it_finds_some():
    strong = found(("a cat", "before", 0.1), ("snow", "after", 0.2), offered=(("fog", "after", 0.9),))
    for use_weak in (True, False):
        taken = take_phrases(strong, use_weak=use_weak)
        assert taken.init_text == "turn it into snow" and taken.taken == {("after", "snow")}
        assert taken.remark == strong.remark and not taken.by_user


def test_takes_weak_phrases_from_half_of_eta_up():
    taken = take_phrases(WEAK)
    # The phrase of the images before is one of their caption.
    assert taken.init_text == "turn a cat into fog"
    assert taken.taken == {("before", "a cat"), ("after", "fog")}
    assert take_phrases(WEAK, use_weak=False).init_text == ""
    weaker = found(("a cat", "before", 0.09), ("snow", "after", 0.0999))
    assert take_phrases(weaker).init_text == "" and take_phrases(weaker).remark == weaker.remark
    same = found(("a cat", "before", 0.0), ("snow", "after", 0.0))
    assert take_phrases(UniquePhrases("", "", "", same.table, -1.0, "")).init_text == ""


def test_orders_candidates_images_before_first():
    assert [each.text for each in candidates(WEAK)] == ["a cat", "a dog", "snow", "fog", "mist"]


@pytest.mark.parametrize(
    ("chosen", "text", "gone"),
    [
        (PhraseChoice((), ("mist", "snow")), "turn it into snow and mist", ()),
        (
            PhraseChoice(("a dog", "a cat"), ("mist", "snow", "fog")),
            "turn a cat and a dog into snow, fog and mist",
            (),
        ),
        (PhraseChoice(("a cat",), ()), "", ()),
        (PhraseChoice(), "", ()),
        (PhraseChoice(("igloo",), ("fog",)), "turn it into fog", ("igloo",)),
        (PhraseChoice((), ("igloo",)), "turn a cat into fog", ("igloo",)),
        # A phrase belongs to its side.
        (PhraseChoice(("fog",), ("mist",)), "turn it into mist", ("fog",)),
    ],
)
def test_follows_the_choice_and_names_what_is_gone(chosen, text, gone):
    taken = take_phrases(WEAK, chosen)
    assert (taken.init_text, taken.gone) == (text, gone)
    assert taken.by_user == (gone != ("igloo",) or bool(chosen.before))
    for each in gone:
        assert each in taken.remark
    assert taken.describe(WEAK).splitlines()[-1] == f"eta 0.2. {taken.remark}"
    stars = [line for line in taken.describe(WEAK).splitlines() if line.endswith("  *")]
    assert len(stars) == len(taken.taken)


def test_reads_a_choice():
    assert PhraseChoice.parse(" ") is None
    assert PhraseChoice.parse("{}") == PhraseChoice()
    assert PhraseChoice.parse('{"after": ["snow", "snow"]}') == PhraseChoice((), ("snow",))


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"after": "snow"}', '{"before": [1]}', "[" * 9000, "x" * 200_000]
)
def test_rejects_what_is_no_choice(text):
    with pytest.raises(LearningError, match="the taken phrases cannot be read"):
        PhraseChoice.parse(text)
