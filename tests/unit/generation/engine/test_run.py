import errno
import multiprocessing
import queue
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.engine import run as run_module
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.figures import count_rows
from instructbrush.core.generation.engine.journal import Journal
from instructbrush.core.generation.engine.run import Workers, run_build
from instructbrush.core.generation.engine.tables import RowResult
from instructbrush.tests.support.builds.numbered_builds import Numbers, build_files, numbered_build


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Build:
    build = numbered_build(tmp_path_factory.mktemp("finished"))
    run_build(build)
    return build


class Unreadable(Numbers):
    def rows(self, start: int, count: int) -> Iterator[Any]:
        raise OSError(errno.ENOSPC, "no space")


def start(folder: Path, seconds: float = 0.0, jobs: int = 1) -> subprocess.Popen[bytes]:
    module = "instructbrush.tests.support.builds.numbered_builds"
    return subprocess.Popen([sys.executable, "-m", module, str(folder), str(seconds), str(jobs)])


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


ON_RAY = """
import sys
from pathlib import Path

import ray

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.engine.run import Workers, run_build
from instructbrush.tests.support.builds.numbered_builds import numbered_build

ray.init(log_to_driver=False, include_dashboard=False, num_cpus=2)
run_build(numbered_build(Path(sys.argv[1]) / "whole"), Workers(2, ray=True))
try:
    run_build(numbered_build(Path(sys.argv[1]) / "stopped", stop_at=20), Workers(1, ray=True))
except BuildError as error:
    print(error)
"""


def test_ray_makes_the_same_files_and_passes_errors_on(finished: Build, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_RAY, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    assert build_files(numbered_build(tmp_path / "whole")) == build_files(finished)
    # Ray may print a line of its own about the actors that it ends.
    assert told.splitlines()[-1] == "The endpoint does not answer."
    stopped = numbered_build(tmp_path / "stopped", stop_at=20)
    assert list(stopped.stage_folder(2).rglob("*.parquet"))


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


def test_answers_of_another_build_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "answers/ab").mkdir(parents=True)
    numbered_build(tmp_path).begin()
    assert (tmp_path / "build.json").exists()


def test_damaged_part_is_named(tmp_path: Path) -> None:
    build = numbered_build(tmp_path)
    run_build(build)
    build.part_file(1, 1).write_bytes(b"PAR1 cut short")
    with pytest.raises(BuildError, match="01-branch/part-000001.parquet' is damaged .*Delete it. Run the"):
        count_rows(build)


def test_part_that_lost_rows_is_named(tmp_path: Path) -> None:
    build = numbered_build(tmp_path)
    run_build(build)
    build.part_file(1, 1).write_bytes(build.part_file(1, 3).read_bytes())
    with pytest.raises(BuildError, match="part-000001.parquet' is wrong: it does not hold each of its 15"):
        count_rows(build)


def test_part_of_other_rows_is_named(tmp_path: Path) -> None:
    build = numbered_build(tmp_path)
    run_build(build)
    build.part_file(1, 1).write_bytes(build.part_file(1, 2).read_bytes())
    with pytest.raises(BuildError, match="part-000001.parquet' is wrong: row 'r32.0' does not come"):
        count_rows(build)
    with pytest.raises(BuildError, match="does not come from the stage before. Delete it and run"):
        build.rows(1, 1, ("number",))


def test_deleted_part_is_made_again(finished: Build, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    build = numbered_build(tmp_path)
    build.part_file(1, 1).unlink()
    assert [count.parts for count in count_rows(build)] == [4, 3, 4]
    run_build(build)
    assert build_files(build) == build_files(finished)


def test_kept_rows_of_other_rows_are_made_again(finished: Build, tmp_path: Path) -> None:
    """The stage before may keep other rows when its part is made again: a model answers where it did not."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    build = numbered_build(tmp_path)
    build.part_file(2, 1).unlink()
    rows = build.rows(1, 1, ())
    journal = Journal(build.stage_folder(2) / "rows/000001", build.stages[1].adds)
    journal.add(RowResult(0, ({"id": rows[0]["id"], "sum": -1.0},)))
    journal.add(RowResult(1, ({"id": rows[0]["id"], "sum": -2.0},)))
    journal.add(RowResult(99, ({"id": "r99", "sum": -3.0},)))
    journal.flush()
    run_build(build)
    sums = [row["sum"] for row in build.rows(2, 1, ("sum",))]
    expected = [row["sum"] for row in finished.rows(2, 1, ("sum",))]
    assert sums == [-1.0, *expected[1:]]


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (Workers(0), "0 jobs are out of range; at least 1 is needed"),
        (Workers(-1), "-1 jobs are out of range"),
        (Workers(gpus=-1), "-1 GPUs are out of range"),
        (Workers(gpus=float("nan")), "nan GPUs are out of range"),
    ],
)
def test_refuses_impossible_workers(tmp_path: Path, workers: Workers, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        run_build(numbered_build(tmp_path), workers)


def test_starts_no_more_processes_than_parts(tmp_path: Path) -> None:
    processes: list[int] = []
    run_build(
        numbered_build(tmp_path, count=10),
        Workers(1000),
        lambda *_: processes.append(len(multiprocessing.active_children())),
    )
    assert set(processes) == {0, 1}


def test_finished_build_starts_no_process(finished: Build) -> None:
    processes: list[int] = []
    run_build(
        numbered_build(finished.folder),
        Workers(4),
        lambda *_: processes.append(len(multiprocessing.active_children())),
    )
    assert set(processes) == {0}


def test_processes_pass_on_errors_of_the_system(tmp_path: Path) -> None:
    """A full disk is no lack of memory."""
    messages: queue.Queue[Any] = queue.Queue()
    tasks: queue.Queue[Any] = queue.Queue()
    tasks.put((0, 0))
    run_module._worker_process(tasks, messages, Build(tmp_path, Unreadable(), ()))
    assert str(messages.get_nowait()) == "[Errno 28] no space"
