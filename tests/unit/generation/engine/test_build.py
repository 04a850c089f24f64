import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from instructbrush.core.errors import BuildError
from instructbrush.core.generation.engine import tables
from instructbrush.core.generation.engine.build import Build, run_row
from instructbrush.core.generation.engine.export import export_table
from instructbrush.core.generation.engine.figures import count_rows, plan
from instructbrush.core.generation.engine.report import sample_rows, write_report
from instructbrush.core.generation.engine.run import run_build
from instructbrush.core.generation.engine.stage import Stage, seed_of
from instructbrush.core.generation.engine.tables import RowResult, part_results, read_part, write_part
from instructbrush.tests.support.builds.numbered_builds import Numbers, numbered_build

COLUMNS = {"name": "id", "picture": "image", "sum": "sum"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Build:
    build = numbered_build(tmp_path_factory.mktemp("finished"))
    run_build(build)
    return build


def makes(rows: Sequence[Mapping[str, Any]]) -> Stage:
    return Stage("make", ("number",), {"sum": "number"}, lambda: lambda row: rows)


def test_seeds_depend_on_row_stage_and_number() -> None:
    seeds = {seed_of({"id": name}, stage, n) for name in "ab" for stage in ("x", "y") for n in (0, 1)}
    assert len(seeds) == 8
    assert seed_of({"id": "a"}, "x") == seed_of({"id": "a", "other": 1}, "x")
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "made nothing of row 'r1' and did not say why"),
        ([{"total": 1.0}], "made the columns total, not sum"),
        ([{"sum": 1.0, "more": 2}], "made the columns more, sum, not sum"),
    ],
)
def test_stage_must_keep_its_word(rows: list[dict[str, Any]], message: str) -> None:
    stage = makes(rows)
    with pytest.raises(BuildError, match=message):
        run_row(stage, stage.start(), 0, {"id": "r1", "number": 1})


def test_value_must_fit_its_column(tmp_path: Path) -> None:
    build = Build(tmp_path, Numbers(3), (makes([{"sum": "many"}]),))
    with pytest.raises(BuildError, match="a value does not fit its column"):
        run_build(build)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((makes([]), makes([])), "'make' is no name of a stage, or two stages have it"),
        ((replace(makes([]), name="../out"),), "'../out' is no name of a stage"),
        ((replace(makes([]), reads=("caption",)),), "needs the column 'caption', .*Columns: image, number"),
    ],
)
def test_refuses_stages_that_do_not_fit(tmp_path: Path, stages: tuple[Stage, ...], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        Build(tmp_path, Numbers(), stages)


def test_plans_rows_calls_and_cost(tmp_path: Path) -> None:
    branch, last = plan(numbered_build(tmp_path), prices=(2.0, 8.0))
    assert (branch.rows, branch.out, branch.calls) == (60, 96, 0)
    assert (last.rows, last.calls) == (96, 288)
    assert last.cost == pytest.approx(288 * (100 * 2 + 50 * 8) / 1e6)
    assert not list(tmp_path.iterdir())


def test_exports_files_of_equal_length(finished: Build, tmp_path: Path) -> None:
    files = export_table(finished, COLUMNS, tmp_path, rows_per_file=40)
    exported = [pyarrow.parquet.read_table(file) for file in files]
    assert [len(table) for table in exported[:-1]] == [40] * (len(files) - 1)
    names = [name for table in exported for name in table["name"].to_pylist()]
    rows = [row for part in range(finished.parts) for row in finished.rows(2, part, ())]
    assert names == [row["id"] for row in rows]
    assert files[0].name == f"train-00000-of-{len(files):05d}.parquet"
    assert b'"picture": {"_type": "Image"}' in exported[0].schema.metadata[b"huggingface"]


def test_exports_the_same_bytes_again(finished: Build, tmp_path: Path) -> None:
    first = [file.read_bytes() for file in export_table(finished, COLUMNS, tmp_path, rows_per_file=30)]
    again = export_table(finished, COLUMNS, tmp_path, rows_per_file=30)
    assert [file.read_bytes() for file in again] == first


def test_export_replaces_files_of_an_earlier_one(finished: Build, tmp_path: Path) -> None:
    export_table(finished, COLUMNS, tmp_path, rows_per_file=10)
    files = export_table(finished, COLUMNS, tmp_path, rows_per_file=1000)
    assert sorted(tmp_path.iterdir()) == files


def test_unfinished_build_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="not finished"):
        export_table(numbered_build(tmp_path), COLUMNS, tmp_path / "data")


def test_samples_are_spread_evenly(finished: Build) -> None:
    rows = sample_rows(finished, ("number", "sum"), 10)
    numbers = [row["number"] for row in rows]
    assert len(numbers) == 10
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert numbers[-1] > 45


def test_report_shows_counts_refusals_and_samples(finished: Build) -> None:
    page = write_report(finished, count_rows(finished), "Numbers", {"model": "none <b>"}, COLUMNS, samples=5)
    text = page.read_text()
    assert "it ends in three" in text
    assert "r4: Four has no image." in text
    assert "none &lt;b&gt;" in text
    assert text.count("<img ") == 5
    assert len(list((finished.folder / "report").iterdir())) == 5


def test_another_number_of_last_stages_keeps_the_description(finished: Build, tmp_path: Path) -> None:
    """A later stage that is left out once does not go on with other settings."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    description = (tmp_path / "build.json").read_bytes()
    fewer = Build(tmp_path, finished.source, finished.stages[:1], finished.rows_per_part)
    run_build(fewer)
    assert (tmp_path / "build.json").read_bytes() == description
    with pytest.raises(BuildError, match="stage 'sum' or its settings have changed"):
        numbered_build(tmp_path, stop_at=5).begin()


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"stages": 3}'])
def test_damaged_description_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "build.json").write_text(content)
    with pytest.raises(BuildError, match="build.json' is damaged. Restore it, or give another --out folder"):
        numbered_build(tmp_path).begin()


def test_texts_that_are_no_text_are_kept_as_escapes(tmp_path: Path) -> None:
    """Names of files may hold bytes of another encoding."""
    rows = (
        RowResult(0, ({"id": "caf\udce9", "words": ["\ud800", "naïve"]},)),
        RowResult(1, reason="it is no image", detail="caf\udce9.png", id="\udce9"),
    )
    write_part(rows, {"words": "texts"}, tmp_path / "part.parquet")
    refused, kept = part_results(read_part(tmp_path / "part.parquet"))
    assert kept.rows == ({"id": "caf\\udce9", "words": ["\\ud800", "naïve"]},)
    assert (refused.id, refused.detail) == ("\\udce9", "caf\\udce9.png")


def test_large_parts_are_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow cannot read a group that holds more than 2 GiB of images."""
    monkeypatch.setattr(tables, "_GROUP_BYTES", 5000)
    build = numbered_build(tmp_path)
    run_build(build)
    assert pyarrow.parquet.ParquetFile(build.part_file(0, 0)).num_row_groups == 4
    rows = [row for part in range(build.parts) for row in build.rows(2, part, ("number", "image", "sum"))]
    assert all(row["image"]["bytes"] == bytes([row["number"]]) * 1000 for row in rows)
    (file,) = export_table(build, COLUMNS, tmp_path / "data")
    assert pyarrow.parquet.ParquetFile(file).num_row_groups > 10
    assert pyarrow.parquet.read_table(file)["name"].to_pylist() == [row["id"] for row in rows]


def test_part_without_a_column_is_damaged(finished: Build, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    build = numbered_build(tmp_path)
    shutil.copy(build.part_file(1, 0), build.part_file(2, 0))
    with pytest.raises(BuildError, match="is damaged .it lacks the column 'sum'.. Delete it. Run the same"):
        build.rows(2, 0, ("sum",))
    with pytest.raises(BuildError, match="holds no column 'total'. Run the build's command again"):
        build.rows(2, 1, ("total",))
