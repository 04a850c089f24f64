"""Histograms of the report: counts, edges and the drawn outlines."""

import math
import re
from xml.etree import ElementTree

import pytest

from instructbrush.core.evaluation.reports.histogram import MOST_SERIES, histogram_svg, shares


def test_shares_match_a_count_by_hand() -> None:
    values = [0.0, 0.1, 0.1, 0.15, 0.2, 0.3, 0.95, -0.4]
    # Bins 0-.1, .1-.2, .2-.3, .3-.4; what lies beyond counts for the first and the last bin.
    assert shares(values, 0.0, 0.1, 4) == [2 / 8, 3 / 8, 1 / 8, 2 / 8]


@pytest.mark.parametrize("step", [0.005, 0.02, 0.025, 0.1])
def test_values_on_an_edge_belong_to_the_bin_above(step: float) -> None:
    values = [place * step for place in range(40)]
    assert shares(values, 0.0, step, 40) == [1 / 40] * 40


def heights(svg: str) -> list[list[float]]:
    """Heights of each method's bars, as shares of the tallest bar."""
    paths = re.findall(r'<path d="M44 210((?:V[\d.]+H[\d.]+)+)V210Z"', svg)
    return [[(210 - float(y)) / (210 - 26) for y in re.findall(r"V([\d.]+)H", path)] for path in paths]


def test_draws_an_outline_and_the_mean_of_each_method() -> None:
    svg = histogram_svg("Visual <CLIP>", {"words": [0.11, 0.12, 0.31, 0.33], "visii": [0.31, math.nan]})
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and root[0].text == "Visual <CLIP>"
    words, visii = heights(svg)
    # 12 bins of .02 from .1 on. Heights are relative to the tallest bar, which is visii's.
    assert words == pytest.approx([0.25, 0.25, *[0.0] * 8, 0.25, 0.25], abs=1e-3)
    assert visii == [*[0.0] * 10, 1.0, 0.0]
    assert "words: mean 0.217, 4 images" in svg
    assert "visii: mean 0.310, 1 images" in svg


def test_one_value_gives_one_full_bar() -> None:
    assert heights(histogram_svg("x", {"words": [0.2]})) == [[1.0]]


def test_without_values_there_is_no_histogram() -> None:
    assert histogram_svg("x", {}) == "" and histogram_svg("x", {"words": [math.nan]}) == ""


def test_leaves_out_methods_that_could_not_be_told_apart() -> None:
    svg = histogram_svg("x", {f"method_{number}": [0.1, 0.2] for number in range(MOST_SERIES + 2)})
    assert len(heights(svg)) == MOST_SERIES
