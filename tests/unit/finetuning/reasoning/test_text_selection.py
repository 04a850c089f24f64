"""Which text of a pair is drawn."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from instructbrush.core.finetuning.reasoning.text_selection import TextSelection
from instructbrush.core.finetuning.training_pairs import ImageSource, PairRecord

EMPTY = ImageSource(b"", "x")
BOTH = PairRecord("x", " direct ", EMPTY, EMPTY, None, ("one", "two"))
DIRECT_ONLY = replace(BOTH, reasoning=())
INDIRECT_ONLY = replace(BOTH, words=" ")
WORDLESS = replace(BOTH, words="", reasoning=())


def count_draws(indirect: float, record: PairRecord) -> dict[str, int]:
    rng = np.random.default_rng(0)
    return dict(Counter(TextSelection(indirect).draw(record, rng) for _ in range(2000)))


def test_draws_each_kind_with_its_probability() -> None:
    found = count_draws(0.4, BOTH)
    assert found.keys() == {"direct", "one", "two"} == set(TextSelection(0.4).of(BOTH))
    assert abs(found["direct"] - 1200) < 100
    assert abs(found["one"] - 400) < 60


def test_draws_a_single_kind_at_0_and_1() -> None:
    assert count_draws(0.0, BOTH) == {"direct": 2000}
    assert TextSelection(0.0).of(BOTH) == ("direct",)
    assert count_draws(1.0, BOTH).keys() == {"one", "two"} == set(TextSelection(1.0).of(BOTH))


@pytest.mark.parametrize("indirect", [0.0, 0.5, 1.0])
def test_draws_the_only_kind_that_a_pair_has(indirect: float) -> None:
    assert count_draws(indirect, DIRECT_ONLY) == {"direct": 2000}
    assert count_draws(indirect, INDIRECT_ONLY).keys() == {"one", "two"}


def test_draws_nothing_for_a_pair_without_words() -> None:
    assert TextSelection(0.5).of(WORDLESS) == ()
    assert count_draws(0.5, WORDLESS) == {"": 2000}
