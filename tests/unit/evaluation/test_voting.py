"""Preference studies by criteria (UltraEdit) and best-of-all votes (ReasonPix2Pix)."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
import trueskill

from instructbrush.core.errors import EvaluationError
from instructbrush.core.evaluation.preference.ratings import MethodRating
from instructbrush.core.evaluation.preference.study import Study
from instructbrush.core.evaluation.preference.study_file import FILE, StudyItem
from instructbrush.core.evaluation.preference.voting import ULTRAEDIT_CRITERIA, Voting

FOUR = ("words", "brush", "visii", "ours")
BEST = Voting("best")


def items(count: int, methods: tuple[str, ...] = FOUR) -> list[StudyItem]:
    """Returns plain images, each of another shade."""
    shades = iter(torch.linspace(0, 1, count * len(methods)).tolist())
    return [
        StudyItem(str(n), {m: torch.full((8, 8, 3), next(shades)) for m in methods}) for n in range(count)
    ]


def pick(study: Study, method: str) -> None:
    """Answers the next question of a best-of-all study."""
    number = study.pending[0]
    study.judge(number, str(study.comparisons[number].methods.index(method) + 1))


def test_best_votes_give_the_shares_of_the_paper(tmp_path: Path) -> None:
    """Table 4 of ReasonPix2Pix: 13, 15, 18 and 54 of 100 votes."""
    votes = dict(zip(FOUR, (13, 15, 18, 54), strict=True))
    study = Study.begin(tmp_path / "s", items(100), voting=BEST)
    for method, count in votes.items():
        for _ in range(count):
            pick(study, method)
    assert not study.pending
    ratings = {rating.method: rating for rating in Study.open(tmp_path / "s").ratings()}
    assert {method: round(100 * rating.share) for method, rating in ratings.items()} == votes
    assert all(rating.lost == 100 - votes[method] for method, rating in ratings.items())
    # Wilson's interval of 54 in 100.
    assert ratings["ours"].interval == pytest.approx((0.4426, 0.6344), abs=5e-4)
    lines = study.report().splitlines()
    assert lines[0] == "Study 's': 100 of 100 judged"
    assert lines[1].split() == "method chosen share 95 % interval mu sigma".split()
    assert lines[2].split()[:6] == ["ours", "54", "54.0%", "44.3%", "-", "63.4%"]
    assert [line.split()[0] for line in lines[2:6]] == ["ours", "visii", "brush", "words"]


def test_best_vote_is_a_win_over_each_other_method(tmp_path: Path) -> None:
    study = Study.begin(tmp_path / "s", items(2), voting=BEST)
    pick(study, "visii")
    first = study.comparisons[0].methods
    expected = {method: trueskill.Rating() for method in FOUR}
    for other in first:
        if other != "visii":
            expected["visii"], expected[other] = trueskill.rate_1vs1(expected["visii"], expected[other])
    for rating in study.ratings():
        assert (rating.mu, rating.sigma) == pytest.approx(
            (expected[rating.method].mu, expected[rating.method].sigma)
        )


def test_best_vote_shows_every_method_at_every_place_equally_often(tmp_path: Path) -> None:
    study = Study.begin(tmp_path / "s", items(12), seed=3, voting=BEST)
    assert len(study.comparisons) == 12 and len({c.item for c in study.comparisons}) == 12
    places = Counter((place, m) for c in study.comparisons for place, m in enumerate(c.methods))
    assert set(places.values()) == {3} and len(places) == 16
    orders = {c.methods for c in study.comparisons}
    assert len(orders) > 4 and all(set(order) == set(FOUR) for order in orders)
    for c in study.comparisons:
        assert len(set(c.images)) == 5 and c.images[0] is None


def test_best_vote_knows_no_tie_and_no_fifth_image(tmp_path: Path) -> None:
    study = Study.begin(tmp_path / "s", items(2), voting=BEST)
    for choice in ("tie", "left", "0", "5"):
        with pytest.raises(EvaluationError, match=f"choice '{choice}' is not one of 1, 2, 3, 4"):
            study.judge(0, choice)
    # A judgement of another kind in the file is damage.
    file = tmp_path / "s" / FILE
    file.write_text(file.read_text() + '{"id": "x", "number": 0, "choice": "left"}\n')
    with pytest.raises(EvaluationError, match="line 2 of '.*': choice 'left' is not one of 1, 2, 3, 4"):
        Study.open(tmp_path / "s")


def test_asks_each_criterion_for_the_same_images_one_after_the_other(tmp_path: Path) -> None:
    criteria = tuple(ULTRAEDIT_CRITERIA)
    assert criteria == ("consistency", "instruction alignment", "image quality")
    study = Study.begin(tmp_path / "s", items(4, ("a", "b")), voting=Voting(criteria=criteria))
    assert len(study.comparisons) == 12
    for start in range(0, 12, 3):
        asked = study.comparisons[start : start + 3]
        assert tuple(c.criterion for c in asked) == criteria
        assert len({c.images for c in asked}) == 1


def test_rates_by_each_criterion_and_by_all(tmp_path: Path) -> None:
    criteria = ("consistency", "image quality")
    study = Study.begin(tmp_path / "s", items(3, ("a", "b")), voting=Voting(criteria=criteria))
    better = {"consistency": "a", "image quality": "b"}
    for number, comparison in enumerate(study.comparisons):
        winner = better[comparison.criterion]
        study.judge(number, "left" if comparison.methods[0] == winner else "right")
    again = Study.open(tmp_path / "s")
    a, b = trueskill.Rating(), trueskill.Rating()
    for _ in range(3):
        a, b = trueskill.rate_1vs1(a, b)
    by_consistency = again.ratings(criterion="consistency")
    assert [(each.mu, each.won, each.lost) for each in by_consistency] == [
        (pytest.approx(a.mu), 3, 0),
        (pytest.approx(b.mu), 0, 3),
    ]
    assert [each.won for each in again.ratings(criterion="image quality")] == [0, 3]
    assert [(each.won, each.lost) for each in again.ratings()] == [(3, 3), (3, 3)]
    lines = again.report().splitlines()
    assert [line for line in lines if line.startswith("By ")] == [
        "By consistency:",
        "By image quality:",
        "By all criteria:",
    ]
    assert lines[3].split()[0] == "a" and lines[7].split()[0] == "b"


def test_plain_pairs_keep_the_first_format(tmp_path: Path) -> None:
    Study.begin(tmp_path / "plain", items(2, ("a", "b")))
    Study.begin(tmp_path / "best", items(2), voting=BEST)
    headers = [json.loads((tmp_path / name / FILE).read_text()) for name in ("plain", "best")]
    assert [header["format"] for header in headers] == [1, 2]
    assert "vote" not in headers[0] and headers[1]["vote"] == "best" and headers[1]["criteria"] == []


@pytest.mark.parametrize(
    ("voting", "message"),
    [
        (Voting("best"), "its vote is 'pairs', not 'best'"),
        (Voting(criteria=("quality",)), "its criteria are none, not 'quality'"),
    ],
)
def test_rejects_other_votes_under_the_same_name(tmp_path: Path, voting: Voting, message: str) -> None:
    Study.begin(tmp_path / "s", items(2))
    with pytest.raises(EvaluationError, match=f"Study 's' was started with other contents: {message}"):
        Study.begin(tmp_path / "s", items(2), voting=voting)


@pytest.mark.parametrize(
    ("voting", "methods", "message"),
    [
        (Voting("best"), 10, "the best of 10 methods cannot be picked; at most 9 are possible"),
        (Voting(criteria=("a", "a")), 2, "two criteria are the same"),
        (Voting(criteria=("a", " ")), 2, "' ' is not a valid criterion; use a short text of one line"),
        (Voting(criteria=tuple("abcdefghij")), 2, "10 criteria are too many; at most 9 are possible"),
    ],
)
def test_rejects_invalid_votes(tmp_path: Path, voting: Voting, methods: int, message: str) -> None:
    given = items(1, tuple(f"method {number}" for number in range(methods)))
    with pytest.raises(EvaluationError, match=f"Study: {message}."):
        Study.begin(tmp_path / "s", given, voting=voting)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vote": "worst"}, "its vote is 'worst'"),
        ({"criteria": "quality"}, "its criteria are not a list of texts"),
        ({"criteria": ["a", "a"]}, "two criteria are the same"),
        ({"comparisons": [[0, "words", "brush"]]}, "a comparison is not of 4 methods"),
        ({"comparisons": [[0, "words", "words", "visii", "ours"]]}, "a comparison is not of 4 methods"),
        ({"comparisons": [[0, "words", "brush", "visii", "x"]]}, "an item or method that does not exist"),
    ],
)
def test_rejects_damaged_headers(tmp_path: Path, change: dict[str, object], message: str) -> None:
    Study.begin(tmp_path / "s", items(2), voting=BEST)
    file = tmp_path / "s" / FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change) + "\n")
    with pytest.raises(EvaluationError, match=f"it does not say what is compared .*{message}"):
        Study.open(tmp_path / "s")


def test_share_without_votes_is_unknown() -> None:
    rating = MethodRating("a", 25.0, 8.33)
    assert rating.share != rating.share and rating.interval == (0.0, 1.0)
