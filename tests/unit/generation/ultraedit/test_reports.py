"""Tables 5 and 6 and the datasheet, of this pack's data and of others'."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from instructbrush.core.errors import DataError
from instructbrush.core.generation.engine.build import Build
from instructbrush.core.generation.engine.figures import count_rows
from instructbrush.core.generation.images import as_png
from instructbrush.core.generation.scoring import ScoringModels
from instructbrush.core.generation.ultraedit.edit_types import EDIT_TYPES
from instructbrush.core.generation.ultraedit.reports.datasheet import Facts, datasheet
from instructbrush.core.generation.ultraedit.reports.edit_tables import find_tables
from instructbrush.core.generation.ultraedit.reports.quality import PUBLISHED as FIGURES
from instructbrush.core.generation.ultraedit.reports.quality import quality_of, table_6, table_6_text
from instructbrush.core.generation.ultraedit.reports.statistics import (
    PUBLISHED,
    count_types,
    table_5,
    table_5_text,
)
from instructbrush.core.generation.ultraedit.stages import UltraEditSettings

INSTRUCTIONS = ["make the hat red", "Make the hat RED!", "turn it into night", "add a dog", "remove the dog"]


def write(folder: Path, **columns: list) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "train.parquet")
    return folder


def test_counts_types_and_different_instructions(tmp_path: Path) -> None:
    counts = count_types(find_tables(write(tmp_path, edit_prompt=INSTRUCTIONS)).edits())
    assert list(counts) == ["free-form"]
    assert counts["free-form"].instances == (2, 0, 0, 0, 0, 1, 0, 1, 1)
    assert counts["free-form"].unique == (1, 0, 0, 0, 0, 1, 0, 1, 1)
    shares = "40.00 0.00 0.00 0.00 0.00 20.00 0.00 20.00 20.00 100.00"
    assert table_5(counts)[1] == ("free-form", "share (%)", *shares.split())
    text = table_5_text(counts)
    assert [line.split("  ")[0] for line in text.splitlines()] == ["type", *EDIT_TYPES, "total"]


def test_published_counts_add_up_to_the_papers_totals() -> None:
    assert [sum(each) for kind in PUBLISHED.values() for each in kind] == [
        *(4000083, 724326),
        *(108179, 33553),
    ]
    assert all(len(each) == len(EDIT_TYPES) for kind in PUBLISHED.values() for each in kind)


def test_tells_regions_by_their_masks(tmp_path: Path) -> None:
    half = torch.zeros(16, 16)
    half[:8] = 1
    masks = [None, as_png(torch.ones(16, 16)), as_png(half), None, as_png(half)]
    counts = count_types(find_tables(write(tmp_path, instruction=INSTRUCTIONS, mask=masks)).edits())
    assert {kind: each.total for kind, each in counts.items()} == {"free-form": 3, "region": 2}


def test_means_of_stored_scores_per_task(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        edit_prompt=[*INSTRUCTIONS, None],
        clip_sim_dir=[0.1, 0.3, 0.5, None, 0.7, 9.0],
        ssim=[1.0, 0.5, 0.5, 0.5, 0.5, 9.0],
    )
    quality = quality_of(find_tables(folder).edits())
    assert quality["change"].means["clip_sim_dir"] == pytest.approx(0.2)
    assert quality["overall"].means["clip_sim_dir"] == pytest.approx(0.4)
    assert quality["overall"].means["ssim"] == pytest.approx(0.6)
    assert quality["overall"].edits == 5
    rows = table_6(quality, "mine")
    assert rows[0] == ("change", "mine", "2", "", "", "0.2000", "", "0.7500", "")
    assert rows[1][:4] == ("change", "UltraEdit", "", "0.2849")
    assert "0.8660" in table_6_text(quality)
    assert all(len(each) == 6 for figures in FIGURES.values() for each in figures.values())


@pytest.mark.parametrize(("kinds", "mean"), [("free-form region", 0.1), ("region region", 0.2)])
def test_table_6_counts_region_edits_only_where_there_are_no_others(
    tmp_path: Path, kinds: str, mean: float
) -> None:
    folder = write(tmp_path, edit_prompt=INSTRUCTIONS[:2], data_type=kinds.split(), ssim=[0.1, 0.3])
    quality = quality_of(find_tables(folder).edits())
    assert quality["overall"].means["ssim"] == pytest.approx(mean)


@pytest.mark.parametrize("names", [("original_prompt", "edited_prompt"), ("before_caption", "after_caption")])
def test_scores_images_of_other_data_sets(tmp_path: Path, make_image, names: tuple[str, str]) -> None:
    images = [as_png(make_image(n)) for n in range(3)]
    broken = {"bytes": b"no image", "path": None}
    folder = write(
        tmp_path,
        original_image=[images[0], images[1], broken],
        edited_image=[images[1], images[1], images[2]],
        edit_prompt=INSTRUCTIONS[2:],
        **{names[0]: ["a circle"] * 3, names[1]: ["a circle at night"] * 3},
    )
    table = find_tables(folder)
    table.check_images()
    assert not table.has_scores
    skipped: list[str] = []
    quality = quality_of(table.edits(with_images=True), ScoringModels()(), skipped.append)
    assert len(skipped) == 1
    assert "row 2" in skipped[0]
    assert quality["add"].means["ssim"] == pytest.approx(1, abs=1e-3)
    assert quality["add"].means["clip_sim_image"] == pytest.approx(1, abs=1e-4)
    assert quality["turn"].means["ssim"] < 0.999
    assert quality["turn"].means["clip_sim_target"] == quality["turn"].means["clip_sim_target"]


def test_places_without_tables_or_instructions_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no .parquet file"):
        find_tables(tmp_path)
    folder = write(tmp_path / "words", other=["x"])
    with pytest.raises(DataError, match="no column of instructions; its columns are other"):
        list(find_tables(folder).edits())
    folder = write(tmp_path / "images", edit_prompt=["x"])
    with pytest.raises(DataError, match="no columns of images"):
        find_tables(folder).check_images()


def test_datasheets_hold_what_the_build_did(built: Build, settings: UltraEditSettings) -> None:
    table = find_tables(built.folder)
    counts = count_rows(built)
    facts = Facts("scenes", "scripted", {"finder": "pocket finder"})
    page = datasheet(settings, facts, counts, count_types(table.edits()), quality_of(table.edits()))
    for heading in ("Motivation", "Composition", "Collection", "Process", "Refusals", "Uses", "Limits"):
        assert f"# {heading}\n" in page
    assert f"{counts[-1].out} edits of 2 source images" in page
    for count in counts:
        assert f"| {count.name} |" in page
        for reason, number in count.refused:
            assert f"- {count.name}: {reason}, {number} rows" in page
    assert "Finder: pocket finder." in page
    assert "| DINOv2 | 0 | not computed |" in page


def test_command_prints_both_tables_and_one_json_object(built: Build, capsys: pytest.CaptureFixture) -> None:
    import argparse

    from instructbrush.cli.build import tables

    parser = argparse.ArgumentParser()
    tables.add_options(parser)
    options = parser.parse_args([str(built.folder)])
    options.command(options)
    printed = capsys.readouterr().out
    assert "Table 5" in printed
    assert "Table 6" in printed
    facts = json.loads(printed.splitlines()[-1], parse_constant=pytest.fail)
    assert (
        sum(cell[0] for kind in facts["types"].values() for cell in kind.values())
        == count_rows(built)[-1].out
    )
    free_form = sum(cell[0] for cell in facts["types"]["free-form"].values())
    assert 0 < facts["scores"]["overall"]["edits"] == free_form < count_rows(built)[-1].out
