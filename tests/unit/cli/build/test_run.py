"""Running and reporting builds, without models."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from instructbrush.cli.build.run import DataSet, report, run_command
from instructbrush.core.errors import BuildError
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.stage import Stage
from instructbrush.core.generation.errors import Refused
from instructbrush.tests.support.builds.numbered_builds import Numbers, numbered_build

DATA_SET = DataSet("Numbers", {"name": "id", "sum": "sum"}, {"model": "none"})


def options(**given: Any) -> argparse.Namespace:
    shared = {"plan": False, "jobs": 1, "ray": False, "gpus": 0.0, "llm_prices": (0.0, 0.0)}
    return argparse.Namespace(**{**shared, **given})


def facts_of(captured: pytest.CaptureFixture[str]) -> Mapping[str, Any]:
    return json.loads(captured.readouterr().out.splitlines()[-1])


def refuse(row: Any) -> Sequence[Any]:
    raise Refused("it is blue")


def test_runs_exports_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(numbered_build(tmp_path), DATA_SET, options())
    facts = facts_of(capsys)
    assert facts["finished"] and facts["rows"] == 90
    assert facts["files"] == [str(tmp_path / "data/train-00000-of-00001.parquet")]
    report(options(folder=str(tmp_path)))
    assert facts_of(capsys) == facts


def test_says_why_no_row_is_left(tmp_path: Path) -> None:
    stage = Stage("look", (), {"sum": "number"}, lambda: refuse)
    with pytest.raises(BuildError, match="no row is left, so there is no table. The report says why"):
        run_command(Build(tmp_path, Numbers(5), (stage,)), DATA_SET, options())
    assert "it is blue" in (tmp_path / "report.html").read_text()


def test_says_after_an_interrupt_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(Numbers):
        def rows(self, start: int, count: int) -> Iterator[Any]:
            if start:
                raise KeyboardInterrupt
            yield from super().rows(start, count)

    with pytest.raises(KeyboardInterrupt):
        run_command(Build(tmp_path, Interrupted(30), (), 16), DATA_SET, options())
    assert capsys.readouterr().err.endswith("What is made is kept. The same command continues.\n")
    data_set = DataSet("Numbers", {"name": "id"}, {})
    run_command(Build(tmp_path, Numbers(30), (), 16), data_set, options())
    assert facts_of(capsys)["rows"] == 29


def test_exports_no_part_of_other_rows(tmp_path: Path) -> None:
    build = numbered_build(tmp_path)
    run_command(build, DATA_SET, options())
    build.part_file(1, 1).write_bytes(build.part_file(1, 2).read_bytes())
    (tmp_path / "data/train-00000-of-00001.parquet").unlink()
    with pytest.raises(BuildError, match="does not come from the stage before. Delete it and run the same"):
        run_command(build, DATA_SET, options())
    assert not list((tmp_path / "data").iterdir())


def test_reports_a_build_that_does_not_say_yet_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(numbered_build(tmp_path), DATA_SET, options())
    (tmp_path / "data_set.json").unlink()
    capsys.readouterr()
    report(options(folder=str(tmp_path)))
    assert facts_of(capsys)["rows"] == 90


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "data_set.json' is damaged"),
        ('{"title": "a", "columns": {"a": ["b"]}, "about": {}}', r"is damaged \(\['b'\] is no column"),
        (
            '{"title": "a", "columns": {"a": "b"}, "about": {}}',
            "holds no column 'b'. Run the build's command",
        ),
    ],
)
def test_names_a_damaged_description_of_the_data(tmp_path: Path, content: str, message: str) -> None:
    run_command(numbered_build(tmp_path), DATA_SET, options())
    (tmp_path / "data_set.json").write_text(content)
    with pytest.raises(BuildError, match=message):
        report(options(folder=str(tmp_path)))


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_reports_no_folder_without_a_build(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BuildError, match="holds no build: it has no build.json"):
        report(options(folder=str(tmp_path / place)))
