import json
from pathlib import Path

import pytest

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.engine.figures import count_rows
from instructbrush.core.generation.engine.report import sample_rows
from instructbrush.core.generation.engine.run import run_build
from instructbrush.core.generation.engine.stored import open_build
from instructbrush.tests.support.builds.numbered_builds import numbered_build


def test_reads_a_build_without_its_source(tmp_path: Path) -> None:
    build = numbered_build(tmp_path)
    run_build(build)
    stored = open_build(tmp_path)
    assert count_rows(stored) == count_rows(build)
    columns = ("number", "sum")
    assert sample_rows(stored, columns, 9) == sample_rows(build, columns, 9)


def test_counts_an_unfinished_build(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not answer"):
        run_build(numbered_build(tmp_path, stop_at=40))
    _, branch, last = count_rows(open_build(tmp_path))
    assert branch.parts == 4
    assert 0 < last.parts < 4
    assert sample_rows(open_build(tmp_path), ("number",), 5)[0]["number"] == 0


def test_stored_build_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not answer"):
        run_build(numbered_build(tmp_path, stop_at=40))
    with pytest.raises(BuildError, match="for reading only"):
        open_build(tmp_path).stages[0].start()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "its format is 99"),
        ({"rows": "many"}, "rows is 'many'"),
        ({"stages": 3}, "is damaged"),
        ({"stages": [{"name": "../out", "columns": {}}]}, "no name of a stage"),
        ({"columns": {"image": "picture"}}, "'picture' is no type of a column"),
    ],
)
def test_refuses_a_damaged_description(tmp_path: Path, change: dict[str, object], message: str) -> None:
    numbered_build(tmp_path).begin()
    file = tmp_path / "build.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BuildError, match=message):
        open_build(tmp_path)


def test_refuses_a_folder_without_a_build(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="holds no build: it has no build.json"):
        open_build(tmp_path)
