"""The whole chain on rows of the pocket world, with the built-in models and a scripted language model."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from instructbrush.core.errors import BuildError
from instructbrush.core.evaluation.by_instruction.datasets.reasoning import read_reason
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.figures import count_rows, plan
from instructbrush.core.generation.engine.run import run_build
from instructbrush.core.generation.reason.export import (
    PUBLISHED,
    Split,
    count_parts,
    export_reason,
    read_counts,
    split_rows,
    table_two,
)
from instructbrush.core.generation.reason.filtering import threshold_of_lowest
from instructbrush.core.generation.reason.models.region_editor import RegionEditorSpec
from instructbrush.core.generation.reason.settings import (
    MEASURED,
    ReasonSettings,
    measuring_stages,
    reason_stages,
)
from instructbrush.tests.unit.generation.reason.scripted_builds import PocketRows, Scripted

ROWS = 10
SETTINGS = ReasonSettings(Scripted(garbage=5), candidates=3, replacer=RegionEditorSpec(steps=1))


def made(folder: Path, settings: ReasonSettings, source: PocketRows, size: int = 8) -> Build:
    threshold = None
    if settings.needs_ranks:
        first = Build(folder, source, measuring_stages(settings, source.columns), size)
        run_build(first)
        threshold = threshold_of_lowest(first, MEASURED, settings.lowest)
    build = Build(folder, source, reason_stages(settings, source.columns, threshold), size)
    run_build(build)
    return build


@dataclass(frozen=True)
class Finished:
    build: Build
    split: Split
    files: list[Path]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    build = made(tmp_path_factory.mktemp("reason"), SETTINGS, PocketRows(ROWS))
    split = split_rows(build, 2)
    return Finished(build, split, export_reason(build, split))


def test_every_row_comes_out_or_is_counted_as_refused(finished: Finished) -> None:
    counts = {count.name: count for count in count_rows(finished.build)}
    assert counts["parts"].out == 2 * ROWS
    assert sum(number for _, number in counts["filter"].refused) == 1  # a tenth of the pairs
    refused = sum(number for count in counts.values() for _, number in count.refused)
    assert counts["replacement"].out + refused == 2 * ROWS
    parts = [row["part"] for part in range(finished.build.parts) for row in all_rows(finished.build, part)]
    assert parts.count(1) >= 7 and parts.count(2) >= 5


def all_rows(build: Build, part: int) -> list:
    names = (
        "part",
        "image_key",
        "instruction",
        "reasoning",
        "candidates",
        "selected_object",
        "box",
        "parser",
    )
    return build.rows(len(build.stages), part, names)


def test_rows_have_an_indirect_instruction_and_what_their_part_adds(finished: Finished) -> None:
    for part in range(finished.build.parts):
        for row in all_rows(finished.build, part):
            assert row["reasoning"] and row["instruction"] and row["reasoning"] != row["instruction"]
            if row["part"] == 1:
                assert row["reasoning"] in row["candidates"] and row["selected_object"] is None
            else:
                assert row["selected_object"] in row["instruction"] and len(row["box"]) == 4
                assert row["parser"] == "grammar" and row["candidates"] is None


def test_trainers_read_the_table(finished: Finished) -> None:
    blocks = find_blocks([finished.build.folder / "data"])
    records = [record for block in blocks for record in block.records()]
    assert len(records) == len(finished.split.train)
    for record in records:
        assert not record.fault
        assert len(record.reasoning) == 1 and record.words and record.words != record.reasoning[0]
        pair = record.read()
        assert pair.before.shape == pair.after.shape


def test_the_benchmark_reads_the_test_set(finished: Finished) -> None:
    items = read_reason(finished.build.folder / "test", strict=True).items
    assert len(items) == 4  # a direct and a reasoning instruction for each of two images
    assert [item.scope for item in items] == ["direct", "reasoning"] * 2
    assert all(item.turns[0].caption for item in items)
    words = [item.turns[0].words for item in items]
    assert all(words[n] != words[n + 1] for n in (0, 2))


def test_no_test_image_is_trained_on(finished: Finished) -> None:
    train, test = (pq.read_table(file).to_pylist() for file in finished.files)
    held = {row["image_key"] for row in test}
    assert len(held) == 2
    assert held.isdisjoint(row["image_key"] for row in train)
    assert {row["part"] for row in train} == {1, 2} and {row["part"] for row in test} == {2}
    left_out = finished.split.left_out
    assert len(train) + len(test) + left_out == count_rows(finished.build)[-1].out and left_out > 0
    for row in (*train, *test):
        image = row.get("source_image") or row["before"]
        assert hashlib.sha256(image["bytes"]).hexdigest() == row["image_key"]


def test_the_choice_of_test_images_depends_on_the_images_alone(finished: Finished, tmp_path: Path) -> None:
    again = made(tmp_path / "again", SETTINGS, PocketRows(ROWS), size=5)
    assert split_rows(again, 2) == finished.split
    assert len(split_rows(finished.build).test) <= 1  # a tenth
    assert split_rows(finished.build, 3).test > finished.split.test
    with pytest.raises(BuildError, match="Hold out fewer"):
        split_rows(finished.build, 100)
    files = export_reason(again, split_rows(again, 2))
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in finished.files]


def test_table_two_counts_parts_of_several_builds(finished: Finished, tmp_path: Path) -> None:
    counts = count_parts(finished.build, finished.split, "pocket pairs")
    assert [count.part for count in counts] == [1, 2]
    assert sum(count.train for count in counts) == len(finished.split.train)
    assert [count.test for count in counts] == [0, 2]
    assert read_counts(finished.build.folder) == counts
    table = table_two(counts)
    for _, _, number in PUBLISHED.values():
        assert f"{number:,}" in table
    assert "40,212" in table and "pocket pairs" in table
    assert table.splitlines()[-2].split()[:2] == ["III", "V3Det"] and " - " in table.splitlines()[-2]
    with pytest.raises(BuildError, match="no finished build"):
        read_counts(tmp_path)
    (tmp_path / "table2.json").write_text(json.dumps([{"part": 1}]))
    with pytest.raises(BuildError, match="missing or damaged"):
        read_counts(tmp_path)


def test_an_unfinished_build_is_not_split(tmp_path: Path) -> None:
    source = PocketRows(2)
    build = Build(tmp_path, source, reason_stages(SETTINGS, source.columns, 0.0))
    with pytest.raises(BuildError, match="not finished"):
        split_rows(build)


def test_images_alone_make_part_three(tmp_path: Path) -> None:
    source = PocketRows(3, ("image",))
    build = made(tmp_path, ReasonSettings(Scripted(), parts=(3,), replacer=RegionEditorSpec(steps=1)), source)
    counts = {count.name: count for count in count_rows(build)}
    assert list(counts)[1:] == ["parts", "caption", "nouns", "boxes", "decision", "replacement"]
    assert counts["caption"].out == 3  # the built-in reader's


def test_the_plan_counts_the_calls_of_each_part() -> None:
    source = PocketRows(100)
    stages = reason_stages(ReasonSettings(Scripted(), lowest=0.2), source.columns)
    calls = {stage.name: stage.calls for stage in plan(Build(Path("none"), source, stages))}
    # 100 pairs give 100 rows of Part I, of which 80 are kept, and 100 of Part II.
    assert calls["candidates"] == pytest.approx(5 * 90, abs=1)
    assert calls["choice"] == pytest.approx(90, abs=1)
    assert calls["decision"] == pytest.approx(90, abs=1)
    one = reason_stages(ReasonSettings(Scripted(), parts=(1,), threshold=0.1), source.columns)
    assert [stage.name for stage in one] == ["parts", "difference", "filter", "candidates", "choice"]


@pytest.mark.parametrize("changes", [{"tries": 0}, {"lowest": 1.0}, {"lowest": -0.1}])
def test_rejects_settings_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(BuildError, match="out of range"):
        ReasonSettings(Scripted(), **changes)  # pyright: ignore[reportArgumentType]
