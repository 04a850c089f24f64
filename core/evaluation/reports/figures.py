"""A figure of a table: a mean over seeds with its confidence interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..metrics import mean

# 97.5 % points of Student's t for 1 .. 10 degrees of freedom. Beyond them the normal's 1.96 is used.
_STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Figure:
    """A mean over seeds and half the width of its 95 % confidence interval."""

    mean: float
    half_width: float | None = None
    """None for a single seed."""

    def show(self, digits: int) -> str:
        """Returns "20.68" or "20.68 ±0.12"; a dash when nothing was measured."""
        if math.isnan(self.mean):
            return "-"
        spread = "" if self.half_width is None else f" ±{self.half_width:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


MetricFigures = Mapping[str, Figure]
"""Metric -> figure: one row of a table."""


def interval(values: Sequence[float]) -> Figure:
    """Returns the mean and its 95 % confidence interval by Student's t; no interval for a single value."""
    center = mean(values)
    if len(values) < 2:
        return Figure(center)
    freedom = len(values) - 1
    deviation = math.sqrt(math.fsum((value - center) ** 2 for value in values) / freedom)
    factor = _STUDENT_T[freedom - 1] if freedom <= len(_STUDENT_T) else 1.96
    return Figure(center, factor * deviation / math.sqrt(len(values)))


def plain_figures(figures: MetricFigures, digits: int) -> dict[str, float | None]:
    """Rounded values for JSON: metric -> mean, None when it was not measured.

    With several seeds ``{metric}_ci95`` holds half the width of the interval.
    """
    means: dict[str, float | None] = {}
    widths: dict[str, float | None] = {}
    for metric, figure in figures.items():
        means[metric] = None if math.isnan(figure.mean) else round(figure.mean, digits)
        if figure.half_width is not None and not math.isnan(figure.half_width):
            widths[f"{metric}_ci95"] = round(figure.half_width, digits)
    return means | widths
