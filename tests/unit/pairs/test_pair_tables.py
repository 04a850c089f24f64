"""Parquet tables of pairs, as Learn Instruction and the pairs board read them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from instructbrush.core.errors import PairError
from instructbrush.core.pairs.board import Board
from instructbrush.core.pairs.pairs import load_pairs
from instructbrush.core.pairs.survey import survey, thumbnail_of
from instructbrush.core.pairs.table_images import TableImage, image_at
from instructbrush.core.storage.image_tensors import from_image
from instructbrush.tests.support import tiny_edits


def test_reads_the_pairs_of_tables(tmp_path: Path) -> None:
    tiny_edits.write_tables(tmp_path, 5)
    pairs = load_pairs(tmp_path)
    assert [pair.name for pair in pairs] == [
        *(f"train-00000-of-00002 row {number}" for number in range(4)),
        "train-00001-of-00002 row 0",
    ]
    for number, pair in enumerate(pairs):
        before, after, mask = (from_image(image.convert("RGB")) for image in tiny_edits.images(number))
        assert torch.equal(pair.before, before) and torch.equal(pair.after, after)
        if number == 2:
            assert pair.mask is None
        else:
            assert pair.mask is not None and torch.equal(pair.mask, mask[..., 0])


def test_reads_a_single_table_without_words(tmp_path: Path) -> None:
    rows = [{name: row[name] for name in ("source_image", "edited_image")} for row in tiny_edits.rows(3)]
    table = tiny_edits.write_table(tmp_path / "pairs.parquet", rows)
    assert len(load_pairs(table)) == 3
    assert len(load_pairs(table, board=Board(skip=("pairs row 1",)))) == 2


def test_leaves_out_damaged_rows(tmp_path: Path) -> None:
    rows = tiny_edits.rows(4)
    rows[1]["source_image"] = {"bytes": None, "path": "1.png"}
    rows[2]["edited_image"] = {"bytes": b"no image", "path": None}
    pairs = load_pairs(tiny_edits.write_table(tmp_path / "t.parquet", rows).parent)
    assert [pair.name for pair in pairs] == ["t row 0", "t row 3"]
    missing, damaged, count = pairs.remarks[:3]
    assert missing.startswith("Left out: Image 't.parquet row 1 source_image' cannot be read (Image 't.parq")
    assert damaged.startswith("Left out: Image 't.parquet row 2 edited_image' cannot be read (it is not an")
    assert count == "2 pairs left out, 2 pairs remain."


def test_the_board_shows_rows_with_their_problems(tmp_path: Path) -> None:
    rows = tiny_edits.rows(3)
    rows[1]["edited_image"] = tiny_edits.png(Image.new("RGB", (64, 32)))
    tiny_edits.write_table(tmp_path / "data" / "t.parquet", rows)
    found = survey(tmp_path)
    assert found.layout == "table" and found.remarks == ()
    assert [(pair.key, pair.problem) for pair in found.pairs] == [
        ("t row 0", ""),
        ("t row 1", "ratio"),
        ("t row 2", ""),
    ]
    third = found.pairs[2]
    assert third.before and (third.before.width, third.before.height) == (64, 64)
    assert third.before.bytes == len(rows[2]["source_image"]["bytes"])
    assert third.mask is None and third.mask_place is None
    assert found.pairs[0].mask is not None and found.pairs[0].mask_place is None
    place = image_at(tmp_path, third.before.file)
    assert place.read_bytes() == rows[2]["source_image"]["bytes"]
    assert thumbnail_of(place).startswith(b"\xff\xd8\xff")


def test_rejects_tables_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(PairError, match=r"^'cut\.parquet' cannot be read as parquet"):
        load_pairs(tmp_path)
    table = tiny_edits.write_table(tmp_path / "other" / "t.parquet", [{"image": b"x", "caption": "a cat"}])
    with pytest.raises(PairError, match=r"^'t\.parquet' has no column 'edited_image'; its columns are image"):
        load_pairs(table)
    many = tiny_edits.write_table(tmp_path / "many" / "t.parquet", tiny_edits.rows(3))
    monkeypatch.setattr("instructbrush.core.pairs.pairs.MAX_PAIRS", 2)
    message = r"^'t\.parquet': the tables hold 3 pairs, at most 2 can be learned from\. Write a table of"
    with pytest.raises(PairError, match=message):
        load_pairs(many)


def test_rejects_a_table_that_changes_while_it_is_read(tmp_path: Path) -> None:
    table = tiny_edits.write_table(tmp_path / "t.parquet", tiny_edits.rows(1))
    place = image_at(tmp_path, survey(tmp_path).pairs[0].before.file)  # type: ignore[union-attr]
    table.unlink()
    with pytest.raises(PairError, match=r"^Image 't\.parquet row 0 source_image' cannot be read \("):
        place.read_bytes()


def test_reads_no_more_of_a_table_than_its_file_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**row, "source_image": bytes(2**20)} for row in tiny_edits.rows(8)]
    tiny_edits.write_table(tmp_path / "t.parquet", rows, group=8)
    monkeypatch.setattr("instructbrush.core.storage.parquet.MOST_KEPT_BYTES", 4 * 2**20)
    message = r"^Image 't\.parquet row 0 source_image' cannot be read \('t\.parquet': its row group 0 needs"
    with pytest.raises(PairError, match=message):
        load_pairs(tmp_path)


@pytest.mark.parametrize("row", [-1, 1])
def test_names_a_row_that_is_not_there(tmp_path: Path, row: int) -> None:
    table = tiny_edits.write_table(tmp_path / "t.parquet", tiny_edits.rows(1))
    with pytest.raises(PairError, match=r"^Image 't\.parquet row 0 source_image' cannot be read \('t\.parq"):
        TableImage(table, 0, row, 0, "source_image").read_bytes()


def test_leaves_out_a_row_whose_words_are_a_book(tmp_path: Path) -> None:
    rows = tiny_edits.with_reasoning(tiny_edits.rows(2))
    rows[1]["reasoning"] = ["why " * 20_000, "how " * 20_000]
    tiny_edits.write_table(tmp_path / "t.parquet", rows)
    pairs = load_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["t row 0"]
    expected = "Left out: Pair 't row 1': its words have 160011 characters, at most 100000 are read. Shorten"
    assert pairs.remarks[0].startswith(expected)
