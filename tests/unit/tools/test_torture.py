"""A few trials of `make torture`."""

import random
from pathlib import Path

import pytest

from instructbrush.tools.torture import disk, kills

GOOD = {"escaped": 0, "lost": 0}


def test_loses_nothing_when_work_is_killed(tmp_path: Path) -> None:
    counts = kills.disturb("save", tmp_path, 2, random.Random(7))
    assert counts == {"tried": 2, "survived": 2, **GOOD}


@pytest.mark.parametrize("name", ["save", "learn briefly"])
def test_loses_nothing_when_the_disk_is_full(tmp_path: Path, name: str) -> None:
    counts = disk.disturb(name, tmp_path, 3)
    assert counts == {**counts, "tried": 3, **GOOD}
    assert counts["refused"] + counts["valid"] == 3
