"""A figure of a table: a mean with its confidence interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from ..metrics import mean


@dataclass(frozen=True)
class Figure:
    """A mean and half the width of its 95 % confidence interval."""

    mean: float
    half_width: float | None = None
    """None for a single value, and if the values are not finite."""

    def show(self, digits: int) -> str:
        """Returns "20.68" or "20.68 ±0.12"; a dash when nothing was measured."""
        if math.isnan(self.mean):
            return "-"
        spread = "" if self.half_width is None else f" ±{self.half_width:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


MetricFigures = Mapping[str, Figure]
"""Metric -> figure: one row of a table."""


def interval(values: Sequence[float]) -> Figure:
    """Returns the mean and its 95 % confidence interval by Student's t.

    A single value, and values that are not all finite, have no interval.
    """
    center = mean(values)
    if len(values) < 2 or not math.isfinite(center):
        return Figure(center)
    freedom = len(values) - 1
    deviation = math.sqrt(math.fsum((value - center) ** 2 for value in values) / freedom)
    # The 97.5 % point of Student's t.
    factor = float(stdtrit(freedom, 0.975))
    return Figure(center, factor * deviation / math.sqrt(len(values)))


def plain_figures(figures: MetricFigures, digits: int) -> dict[str, float | None]:
    """Rounded values for JSON: metric -> mean, None when it was not measured or is not finite.

    ``{metric}_ci95`` holds half the width of the interval, if there is one.
    """
    means: dict[str, float | None] = {}
    widths: dict[str, float | None] = {}
    for metric, figure in figures.items():
        means[metric] = round(figure.mean, digits) if math.isfinite(figure.mean) else None
        if figure.half_width is not None and math.isfinite(figure.half_width):
            widths[f"{metric}_ci95"] = round(figure.half_width, digits)
    return means | widths
