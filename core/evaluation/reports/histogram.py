"""Histograms of a metric as inline SVG, one outline for each method (Fig. 7 of Visii)."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from ..metrics import mean

_WIDTH, _HEIGHT = 460, 240
_LEFT, _BOTTOM, _TOP = 44, 30, 26
_LINE = 16
_BINS = 20
# Widths of a bin that give round numbers at the axis.
_STEPS = (0.005, 0.01, 0.02, 0.025, 0.05, 0.1)
# Colors that stay apart for readers who are color-blind (Okabe and Ito).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MOST_SERIES = len(_COLORS)
"""Outlines beyond this number could not be told apart; they are left out."""


def shares(values: Sequence[float], start: float, step: float, count: int) -> list[float]:
    """Returns the share of the values in each of ``count`` bins from ``start`` on, in 0..1.

    Values beyond the ends count for the bins there.
    """
    counts = [0] * count
    for value in values:
        # The small number keeps a value that lies on a bin's lower edge in that bin.
        place = math.floor((value - start) / step + 1e-9)
        counts[min(max(place, 0), count - 1)] += 1
    return [number / len(values) for number in counts]


def histogram_svg(title: str, series: Mapping[str, Sequence[float]]) -> str:
    """Returns an SVG element, or an empty text if there are no finite values.

    Args:
        title: what is measured.
        series: method -> value of each test image. Values that are not finite are left out.
    """
    finite = {
        name: kept
        for name, values in list(series.items())[:MOST_SERIES]
        if (kept := [value for value in values if math.isfinite(value)])
    }
    if not finite:
        return ""
    everything = [value for values in finite.values() for value in values]
    low, high = min(everything), max(everything)
    step = next((step for step in _STEPS if (high - low) / step <= _BINS - 1), _STEPS[-1])
    start = math.floor(low / step + 1e-9) * step
    count = math.floor((high - start) / step + 1e-9) + 1
    heights = {name: shares(values, start, step, count) for name, values in finite.items()}
    top = max(max(bins) for bins in heights.values())
    full_height = _HEIGHT + _LINE * len(finite)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {full_height}" width="{_WIDTH}" '
        f'role="img" font-family="system-ui,sans-serif" font-size="11"><title>{escape(title)}</title>',
        f'<text x="{_WIDTH / 2:g}" y="15" text-anchor="middle" font-size="13">{escape(title)}</text>',
        *_axes(start, step, count, top),
    ]
    for place, (name, bins) in enumerate(heights.items()):
        color = _COLORS[place]
        parts.append(
            f'<path d="{_outline(bins, top)}" fill="{color}" fill-opacity=".12" stroke="{color}" '
            f'stroke-width="1.5"/>'
        )
        y = _HEIGHT + _LINE * place + 8
        values = finite[name]
        parts.append(
            f'<rect x="{_LEFT}" y="{y - 9}" width="12" height="9" fill="{color}"/>'
            f'<text x="{_LEFT + 18}" y="{y}">{escape(name)}: mean {mean(values):.3f}, {len(values)} images'
            "</text>"
        )
    return "".join([*parts, "</svg>"])


def _axes(start: float, step: float, count: int, top: float) -> list[str]:
    base, right = _HEIGHT - _BOTTOM, _WIDTH - 8
    parts = [
        f'<path d="M{_LEFT} {_TOP}V{base}H{right}" fill="none" stroke="#888"/>',
        f'<text x="{_LEFT - 5}" y="{_TOP + 8}" text-anchor="end">{100 * top:.0f} %</text>',
        f'<text x="{_LEFT - 5}" y="{base}" text-anchor="end">0</text>',
    ]
    for edge in range(0, count + 1, max(1, math.ceil(count / 6))):
        x = _LEFT + (right - _LEFT) * edge / count
        parts.append(
            f'<path d="M{x:.1f} {base}v4" stroke="#888"/>'
            f'<text x="{x:.1f}" y="{base + 15}" text-anchor="middle">{start + edge * step:.3g}</text>'
        )
    return parts


def _outline(bins: Sequence[float], top: float) -> str:
    """The path around the bars, from the base on the left to the base on the right."""
    base, right = _HEIGHT - _BOTTOM, _WIDTH - 8
    path = f"M{_LEFT} {base}"
    for place, share in enumerate(bins):
        y = base - (base - _TOP) * share / top
        x = _LEFT + (right - _LEFT) * (place + 1) / len(bins)
        path += f"V{y:.1f}H{x:.1f}"
    return f"{path}V{base}Z"
