import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.figures import count_rows
from instructbrush.core.generation.engine.run import Workers, run_build
from instructbrush.tests.support.builds.numbered_builds import build_files, numbered_build


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Build:
    build = numbered_build(tmp_path_factory.mktemp("finished"))
    run_build(build)
    return build


def start(
    folder: Path, seconds: float = 0.0, jobs: int = 1, kind: str = "processes"
) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "instructbrush.tests.support.builds.numbered_builds",
        str(folder),
        str(seconds),
        str(jobs),
        kind,
    ]
    return subprocess.Popen(command)


def test_counts_each_row_once(finished: Build) -> None:
    source, branch, last = count_rows(finished)
    assert (source.rows, source.kept, source.refused) == (60, 57, (("the image cannot be read", 3),))
    assert (branch.rows, branch.kept) == (57, 45)
    assert branch.refused == (("it ends in three", 6), ("its data cannot be used", 6))
    assert branch.out == sum(1 + n % 3 for n in range(60) if n % 20 != 19 and n % 10 not in (3, 4))
    assert (last.rows, last.out) == (branch.out, branch.out)
    assert ("its data cannot be used", "r4", "Four has no image.") in branch.examples


def test_rows_join_columns_of_every_stage(finished: Build) -> None:
    rows = [
        row for part in range(finished.parts) for row in finished.rows(2, part, ("number", "draw", "sum"))
    ]
    assert rows[0]["id"] == "r0"
    assert [row["id"] for row in rows if row["number"] == 2] == ["r2.0", "r2.1", "r2.2"]
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["sum"] == row["draw"] + row["number"] + 0.5 for row in rows)


def test_two_processes_make_the_same_files(finished: Build, tmp_path: Path) -> None:
    assert start(tmp_path, jobs=2).wait(120) == 0
    assert build_files(numbered_build(tmp_path)) == build_files(finished)


def test_ray_makes_the_same_files(finished: Build, tmp_path: Path) -> None:
    assert start(tmp_path, jobs=2, kind="ray").wait(180) == 0
    assert build_files(numbered_build(tmp_path)) == build_files(finished)


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_build_continues_to_the_same_files(finished: Build, tmp_path: Path, jobs: int) -> None:
    moments = random.Random(jobs)
    for _ in range(10 if jobs == 1 else 3):
        process = start(tmp_path, 0.02, jobs)
        while process.poll() is None and not (tmp_path / "stages").exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.wait()
    # The rest is quick: the settings are the same, so its rows are too.
    assert start(tmp_path, 0.02, jobs).wait(120) == 0
    assert build_files(numbered_build(tmp_path)) == build_files(finished)


def test_stopped_build_keeps_its_rows(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not answer"):
        run_build(numbered_build(tmp_path, stop_at=20))
    kept = list((tmp_path / "stages/02-sum/rows").rglob("*.parquet"))
    assert kept
    assert (tmp_path / "stages/02-sum/part-000000.parquet").exists()


def test_finished_build_starts_no_stage(finished: Build) -> None:
    again = numbered_build(finished.folder, never_starts=True)
    before = build_files(finished)
    run_build(again)
    assert build_files(finished) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 61}, "source has changed"),
        ({"seconds": 0.5}, "stage 'branch' or its settings have changed"),
        ({"stop_at": 500}, "stage 'sum' or its settings have changed"),
    ],
)
def test_refuses_a_folder_of_another_build(finished: Build, change: dict[str, int], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        run_build(numbered_build(finished.folder, **change))


def test_refuses_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(BuildError, match="holds other files, not a build. Give another --out folder"):
        run_build(numbered_build(tmp_path))


def test_damaged_part_is_named(tmp_path: Path) -> None:
    build = numbered_build(tmp_path)
    run_build(build)
    build.part_file(1, 1).write_bytes(b"PAR1 cut short")
    with pytest.raises(BuildError, match="01-branch/part-000001.parquet' is damaged .*Delete it and run"):
        count_rows(build)


def test_part_that_lost_rows_is_named(tmp_path: Path) -> None:
    build = numbered_build(tmp_path)
    run_build(build)
    build.part_file(1, 1).write_bytes(build.part_file(1, 2).read_bytes())
    with pytest.raises(BuildError, match="does not hold each of its .* rows once"):
        count_rows(build)


@pytest.mark.parametrize("jobs", [0, -1])
def test_refuses_no_jobs(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(BuildError, match="at least 1 is needed"):
        run_build(numbered_build(tmp_path), Workers(jobs))
