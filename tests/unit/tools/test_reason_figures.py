"""PocketReason counts right and wrong explanations."""

import numpy as np
import pytest

from instructbrush.tools.benchmarks.reason_figures import (
    Items,
    explanations,
    judged,
    table_of_explanations,
)
from instructbrush.tools.pocket.wishes.wishes import sample_wish


@pytest.fixture(scope="module")
def items():
    """A lamp that changes (the image decides), and two wishes whose words decide, the last held out."""
    rng = np.random.default_rng(1)
    wishes = [sample_wish(rng, kind) for kind in ("traffic_light", "bedtime", "gallery")]
    return Items(wishes, [False, False, True])


@pytest.mark.parametrize(
    ("words", "judgement"),
    [
        ("{true}", "right"),
        ("{Capital}.", "right"),
        ("make it night", "wrong_kind"),
        ("a red thing", "wrong_kind"),
        ("make the {other} {value}", "wrong_object"),
        ("make the {other} brown", "wrong_object"),
        ("make the {target} brown", "wrong_value"),
    ],
)
def test_judges_an_explanation(items, words, judgement):
    wish = items.wishes[0]
    kind, target, value = wish.meaning
    assert kind == "recolor"
    other = "star" if target != "star" else "ring"
    text = words.format(
        true=wish.instruction,
        Capital=wish.instruction.capitalize(),
        target=target,
        other=other,
        value=value,
    )
    assert judged(wish, text) == judgement


def test_counts_explanations_of_every_part(items):
    explained = [wish.instruction for wish in items.wishes]
    explained[2] = "make it night"
    counts = explanations(items, explained)
    none = {"wrong_kind": 0, "wrong_object": 0, "wrong_value": 0}
    assert counts == {
        "": {**none, "right": 2, "wrong": 1, "wrong_kind": 1},
        "image_decides": {**none, "right": 1, "wrong": 0},
        "words_decide": {**none, "right": 1, "wrong": 1, "wrong_kind": 1},
        "known": {**none, "right": 2, "wrong": 0},
        "held_out": {**none, "right": 0, "wrong": 1, "wrong_kind": 1},
    }
    title, right, wrong, *kinds = table_of_explanations(items, explained)
    assert title.split("  ")[0] == "explanations"
    assert right.split() == ["right", "2", "1", "1", "2", "0"]
    assert wrong.split() == ["wrong", "1", "0", "1", "0", "1"]
    assert [line.split()[:2] for line in kinds] == [
        ["wrong", "kind"],
        ["wrong", "object"],
        ["wrong", "value"],
    ]
