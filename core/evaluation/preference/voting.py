"""What the judges of a study are asked: the better of two images or the best of all, by which criteria."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

from ...errors import EvaluationError

Vote = Literal["pairs", "best"]
"""Each two methods beside each other, or all methods beside each other."""
VOTES: tuple[Vote, ...] = get_args(Vote)

PAIR_CHOICES = ("left", "tie", "right")
"""The left image is better, neither is better, the right image is better."""

ULTRAEDIT_CRITERIA = {
    "consistency": "Which one keeps everything that the instruction does not change?",
    "instruction alignment": "Which one follows the instruction better?",
    "image quality": "Which one looks better: sharp, natural and without flaws?",
}
"""Criterion of UltraEdit's human evaluation -> the question to the judge. The wording is ours."""

# The panel has a key for each image of a best-of-all vote.
_MOST_METHODS = 9
_MOST_CRITERIA = 9
_MAX_CHARACTERS = 200


@dataclass(frozen=True)
class Voting:
    """How a study is judged."""

    vote: Vote = "pairs"
    """``pairs``: each two methods are compared, and ties are possible. ``best``: the best of all methods is
    picked, without ties, as in ReasonPix2Pix's user study."""
    criteria: tuple[str, ...] = ()
    """Each comparison is judged once by each criterion. Empty: it is judged once, as a whole."""

    @property
    def questions(self) -> tuple[str, ...]:
        """The criterion of each question on a comparison; one empty text without criteria."""
        return self.criteria or ("",)

    def choices(self, methods: Sequence[str]) -> tuple[str, ...]:
        """Returns what a judge may answer. In a ``best`` vote "1" is the first image shown, and so on."""
        if self.vote == "pairs":
            return PAIR_CHOICES
        return tuple(str(number + 1) for number in range(len(methods)))

    def check(self, methods: Sequence[str]) -> None:
        """Checks that these methods can be judged in this way.

        Raises:
            EvaluationError: a criterion is not valid, or a ``best`` vote has too many methods.
        """
        fault = self.fault(len(methods))
        if fault:
            raise EvaluationError(f"Study: {fault}.")

    def fault(self, methods: int) -> str | None:
        """Why this many methods cannot be judged in this way; None if they can."""
        if self.vote == "best" and methods > _MOST_METHODS:
            return f"the best of {methods} methods cannot be picked; at most {_MOST_METHODS} are possible"
        if len(self.criteria) > _MOST_CRITERIA:
            return f"{len(self.criteria)} criteria are too many; at most {_MOST_CRITERIA} are possible"
        for criterion in self.criteria:
            if not criterion.strip() or "\n" in criterion or len(criterion) > _MAX_CHARACTERS:
                return f"{criterion!r} is not a valid criterion; use a short text of one line"
        if len(set(self.criteria)) < len(self.criteria):
            return "two criteria are the same"
        return None

    def describe(self) -> dict[str, Any]:
        """Returns the entries of a study's header. Empty for plain pairs, which every version reads."""
        return {} if self == Voting() else {"vote": self.vote, "criteria": list(self.criteria)}


PLAIN_PAIRS = Voting()


def read_voting(header: Mapping[str, Any], methods: int) -> Voting:
    """Reads the entries of a study's header.

    Raises:
        ValueError: an entry is not valid.
    """
    vote = header.get("vote", "pairs")
    criteria = header.get("criteria", [])
    if vote not in VOTES:
        raise ValueError(f"its vote is {vote!r}")
    if not isinstance(criteria, list) or not all(isinstance(each, str) for each in criteria):
        raise ValueError("its criteria are not a list of texts")
    voting = Voting(vote, tuple(criteria))
    fault = voting.fault(methods)
    if fault:
        raise ValueError(fault)
    return voting


def draw_comparisons(count: int, methods: Sequence[str], seed: int, vote: Vote = "pairs") -> list[list[Any]]:
    """Returns [item, methods from left to right] of every comparison, in the order in which they are asked.

    Every method is at every place equally often.
    """
    draw = random.Random(seed)
    comparisons = _draw_pairs(count, methods, draw) if vote == "pairs" else _draw_all(count, methods, draw)
    draw.shuffle(comparisons)
    return comparisons


def _draw_pairs(count: int, methods: Sequence[str], draw: random.Random) -> list[list[Any]]:
    comparisons = []
    for one, other in combinations(methods, 2):
        one_is_left = [index % 2 == 0 for index in range(count)]
        draw.shuffle(one_is_left)
        if count % 2 and draw.random() < 0.5:
            one_is_left = [not side for side in one_is_left]
        for item, left in enumerate(one_is_left):
            comparisons.append([item, one, other] if left else [item, other, one])
    return comparisons


def _draw_all(count: int, methods: Sequence[str], draw: random.Random) -> list[list[Any]]:
    items = list(range(count))
    draw.shuffle(items)
    comparisons = []
    for start in range(0, count, len(methods)):
        order = draw.sample(list(methods), len(methods))
        for shift, item in enumerate(items[start : start + len(methods)]):
            comparisons.append([item, *order[shift:], *order[:shift]])
    return comparisons
