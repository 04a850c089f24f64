"""PocketReason counts right and wrong explanations."""

import json

import numpy as np
import pytest
import torch

from instructbrush.tools.benchmarks.reason_figures import (
    TITLES,
    Items,
    explanations,
    figures,
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


def test_figures_have_intervals_over_the_items(items):
    metrics = {"l1": torch.tensor([0.1, 0.2, 0.6]), "clip_i": torch.tensor([0.5, 0.5, 0.5])}
    scores = {method: {"direct": metrics, "indirect": metrics} for method in TITLES}
    rows = figures(items, scores, [wish.instruction for wish in items.wishes])
    assert set(rows) == {*TITLES, "input"}
    base = rows["base"]
    # Student's t with two degrees of freedom, and the deviation of 0.1, 0.2, 0.6.
    assert base["indirect_l1"] == 0.3 and base["indirect_l1_ci95"] == pytest.approx(
        4.30265 * 0.264575 / 3**0.5, abs=1e-4
    )
    assert base["direct_clip_i_ci95"] == 0
    assert base["indirect_l1_known"] == 0.15 and base["indirect_l1_known_ci95"] > 0
    # One item has no interval.
    assert base["indirect_l1_held_out"] == 0.6 and "indirect_l1_held_out_ci95" not in base
    assert rows["explain"]["exact"] == 1 and rows["explain"]["exact_ci95"] == 0
    assert rows["input"]["indirect_l1_ci95"] > 0 and rows["input"]["items"] == 3
    json.dumps(rows, allow_nan=False)


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
