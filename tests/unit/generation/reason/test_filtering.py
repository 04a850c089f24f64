from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructbrush.core.errors import BuildError, PairError
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.run import run_build
from instructbrush.core.generation.engine.stage import Row
from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.reason.filtering import (
    difference_stage,
    filter_stage,
    parts_stage,
    threshold_of_lowest,
)
from instructbrush.core.generation.sources.rows import EDIT_COLUMNS, TYPES
from instructbrush.tools.build_demo.pocket_rows import encoded

COLUMNS = {name: TYPES[name] for name in EDIT_COLUMNS}


def gray(level: float, side: int = 16) -> dict[str, Any]:
    return encoded(np.full((side, side, 3), level))


def pair(level: float, **changes: object) -> Row:
    texts = {"caption": "a", "instruction": "b", "edited_caption": "c"}
    return {"id": "a", "part": 1, "image": gray(0.2), "edited_image": gray(level), **texts, **changes}


def difference(row: Row) -> float:
    (made,) = difference_stage().start()(row)
    return made["difference"]


def test_the_difference_is_the_mean_of_the_squares() -> None:
    assert difference(pair(0.6)) == pytest.approx(0.16, abs=1e-6)
    assert difference(pair(0.2)) == 0


def test_incomplete_pairs_are_refused() -> None:
    for changes in (
        {"caption": None},
        {"instruction": None},
        {"edited_caption": None},
        {"edited_image": None},
    ):
        with pytest.raises(Refused, match="not complete"):
            difference(pair(0.6, **changes))
    with pytest.raises(PairError):
        difference(pair(0.6, edited_image=encoded(np.zeros((16, 64, 3)))))


def test_rows_of_other_parts_are_not_measured_or_refused() -> None:
    assert difference_stage().start()({"id": "a", "part": 2}) == [{"difference": None}]
    assert filter_stage(0.5).start()({"id": "a", "part": 2, "difference": None}) == [{}]


@pytest.mark.parametrize(("value", "kept"), [(0.0, False), (0.099, False), (0.1, True), (0.3, True)])
def test_pairs_below_the_threshold_are_refused(value: float, kept: bool) -> None:
    row = {"id": "a", "part": 1, "difference": value}
    if kept:
        assert filter_stage(0.1).start()(row) == [{}]
        return
    with pytest.raises(Refused, match="hardly changes"):
        filter_stage(0.1).start()(row)


def test_equal_images_are_refused_even_without_a_threshold() -> None:
    with pytest.raises(Refused, match="hardly changes"):
        filter_stage(0.0).start()({"id": "a", "part": 1, "difference": 0.0})


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_rejects_thresholds_out_of_range(threshold: float) -> None:
    with pytest.raises(BuildError, match="out of range"):
        filter_stage(threshold)


@dataclass(frozen=True)
class Levels:
    """Pairs whose difference grows with a shuffled number."""

    count: int = 20
    fingerprint: str = "levels"

    @property
    def columns(self) -> Mapping[str, str]:
        return COLUMNS

    def rows(self, start: int, count: int) -> Sequence[Row]:
        return [
            {**pair(0.2 + 0.03 * (number * 7 % self.count)), "id": f"p{number}"}
            for number in range(start, start + count)
        ]


def test_the_lowest_share_does_not_depend_on_how_rows_are_grouped(tmp_path: Path) -> None:
    thresholds = set()
    for size in (3, 20):
        stages = (parts_stage((1, 2), COLUMNS), difference_stage())
        build = Build(tmp_path / str(size), Levels(), stages, size)
        run_build(build)
        thresholds.add(threshold_of_lowest(build, 2, 0.25))
        found = [
            row["difference"] for part in range(build.parts) for row in build.rows(2, part, ["difference"])
        ]
        measured = [value for value in found if value is not None]
        assert len(measured) == 20
        assert sum(value < threshold_of_lowest(build, 2, 0.25) for value in measured) == 5
        assert threshold_of_lowest(build, 2, 0.0) == 0
        with pytest.raises(BuildError, match="out of range"):
            threshold_of_lowest(build, 2, 1.0)
    assert len(thresholds) == 1


def test_each_part_needs_its_columns() -> None:
    with pytest.raises(BuildError, match="needs the column 'edited_image'"):
        parts_stage((1, 3), {"image": "image", "caption": "text"})
    with pytest.raises(BuildError, match="needs the column 'image'"):
        parts_stage((3,), {"caption": "text"})
    with pytest.raises(BuildError, match="do not exist"):
        parts_stage((4,), COLUMNS)
    with pytest.raises(BuildError, match="do not exist"):
        parts_stage((), COLUMNS)


def test_rows_of_one_image_share_their_key_and_texts_stand_on_one_line() -> None:
    made = parts_stage((2, 1), COLUMNS).start()(pair(0.5, caption=" two\n lines ", instruction=""))
    assert [row["part"] for row in made] == [1, 2]
    assert made[0]["image_key"] == made[1]["image_key"]
    assert made[0]["caption"] == "two lines" and made[0]["instruction"] is None
