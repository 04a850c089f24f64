"""Turns judgements into figures: TrueSkill ratings, and how often each method was chosen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...errors import EvaluationError

DRAW_PROBABILITY = 0.10
"""Probability of a tie between equal methods: TrueSkill's default. With a higher one, ties count less."""


@dataclass(frozen=True)
class MethodRating:
    """A method's TrueSkill rating and its number of results. Ratings begin at mu 25 and sigma 25/3."""

    method: str
    mu: float
    sigma: float
    won: int = 0
    tied: int = 0
    lost: int = 0

    @property
    def share(self) -> float:
        """Part of the judgements of this method that it won; nan without judgements."""
        judged = self.won + self.tied + self.lost
        return self.won / judged if judged else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of ``share``; (0, 1) without judgements."""
        # Imported here: scipy.stats takes a second, and ComfyUI imports this module when it starts.
        from scipy.stats import binomtest

        judged = self.won + self.tied + self.lost
        if not judged:
            return 0.0, 1.0
        bounds: Any = binomtest(self.won, judged).proportion_ci(method="wilson")
        return float(bounds.low), float(bounds.high)


class JudgedImages(NamedTuple):
    """The methods that a judgement ranks."""

    better: str
    worse: tuple[str, ...]
    """All other methods that were shown."""
    drawn: bool = False
    """Whether ``better`` is as good as the single other method."""


def rate(
    methods: Sequence[str], judged: Iterable[JudgedImages], draw_probability: float
) -> list[MethodRating]:
    """Returns the rating of each method, in the order of ``methods``.

    Each judgement is a match with each of the worse methods, in the order of the judgements.

    Args:
        methods: all methods.
        judged: the judgements.
        draw_probability: see ``DRAW_PROBABILITY``. The other parameters are the package's defaults: mu 25,
            sigma 25/3, beta 25/6, tau 25/300.

    Raises:
        EvaluationError: the trueskill package is not installed.
    """
    trueskill = _import_trueskill()
    environment = trueskill.TrueSkill(draw_probability=draw_probability)
    ratings = {method: environment.create_rating() for method in methods}
    counts = {method: {"won": 0, "tied": 0, "lost": 0} for method in methods}
    for better, others, drawn in judged:
        for worse in others:
            ratings[better], ratings[worse] = trueskill.rate_1vs1(
                ratings[better], ratings[worse], drawn=drawn, env=environment
            )
            counts[worse]["tied" if drawn else "lost"] += 1
        counts[better]["tied" if drawn else "won"] += 1
    return [
        MethodRating(method, rating.mu, rating.sigma, **counts[method]) for method, rating in ratings.items()
    ]


def pairs_table(ratings: Sequence[MethodRating]) -> list[str]:
    """Returns the lines of a table of pairwise judgements, best method first."""
    width = _width(ratings)
    lines = [f"{'method':<{width}}     mu  sigma    won   tied   lost"]
    for each in _best_first(ratings):
        lines.append(
            f"{each.method:<{width}}  {each.mu:5.2f}  {each.sigma:5.2f}  "
            f"{each.won:5d}  {each.tied:5d}  {each.lost:5d}"
        )
    return lines


def shares_table(ratings: Sequence[MethodRating]) -> list[str]:
    """Returns the lines of a table of best-of-all votes, the method with most votes first."""
    width = _width(ratings)
    lines = [f"{'method':<{width}}  chosen   share  95 % interval     mu  sigma"]
    for each in sorted(ratings, key=lambda rating: -rating.won):
        low, high = each.interval
        share = f"{each.share:6.1%}" if each.won + each.lost else "     -"
        lines.append(
            f"{each.method:<{width}}  {each.won:6d}  {share}  {low:5.1%} - {high:<6.1%}  "
            f"{each.mu:5.2f}  {each.sigma:5.2f}"
        )
    return lines


def _best_first(ratings: Sequence[MethodRating]) -> list[MethodRating]:
    return sorted(ratings, key=lambda rating: -rating.mu)


def _width(ratings: Sequence[MethodRating]) -> int:
    return max(len("method"), *(len(rating.method) for rating in ratings))


def _import_trueskill() -> Any:
    try:
        import trueskill
    except ImportError as error:
        raise EvaluationError(
            "Preference: ratings need the trueskill package, which is not installed. "
            "Run: pip install trueskill."
        ) from error
    return trueskill
