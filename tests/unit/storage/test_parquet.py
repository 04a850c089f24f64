"""Parquet tables whose few bytes stand for much memory."""

import os
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instructbrush.core.errors import DataError
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.generation.sources.opening import open_source
from instructbrush.core.pairs.pair_tables import row_groups
from instructbrush.core.storage import parquet
from instructbrush.core.storage.parquet import group_rows, group_sizes, open_table, row_batches

ROW = {"before": b"x", "after": b"y", "words": "invert"}


def number(value: int) -> bytes:
    """An i64 field of the footer, whose encoding depends on its size."""
    zigzag = (value << 1 ^ value >> 63) & (2**64 - 1)
    encoded = bytearray(b"\x16")
    while zigzag > 127:
        encoded.append(zigzag & 127 | 128)
        zigzag >>= 7
    return bytes(encoded) + bytes([zigzag])


def with_counts(file: Path, *counts: int) -> Path:
    """Writes a table with row groups of 77 and 33 rows, whose footer says other numbers."""
    pq.write_table(pa.Table.from_pylist([ROW] * 110), file, row_group_size=77)
    content = file.read_bytes()
    start = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    footer = content[start:-8]
    for old, new in zip((77, 33), counts, strict=True):
        assert number(old) in footer
        footer = footer.replace(number(old), number(new))
    file.write_bytes(content[:start] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    return file


def images(file: Path, size: int, count: int) -> Path:
    """Writes a small table of large, equal images."""
    pq.write_table(pa.table({"image": pa.array([bytes(size)] * count)}), file, compression="zstd")
    assert file.stat().st_size < 1000
    return file


@pytest.mark.parametrize("counts", [(10**10, 110 - 10**10), (78, 33), (7, 33)])
def test_rejects_numbers_of_rows_that_disagree(tmp_path: Path, counts: tuple[int, int]) -> None:
    file = with_counts(tmp_path / "t.parquet", *counts)
    message = r"^'t\.parquet' is damaged \(its numbers of rows disagree\)\. Download it again\.$"
    for read in (row_groups, open_source, lambda place: find_blocks([place])):
        with pytest.raises(DataError, match=message):
            read(file)


def test_rejects_more_rows_than_a_file_can_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"mask": pa.nulls(100_000, pa.binary())}), file)
    with open_table(file) as table:
        assert group_sizes(table, file) == [100_000]
        monkeypatch.setattr(parquet, "MOST_KEPT_BYTES", 2**20)
        with pytest.raises(DataError, match=r"^'t\.parquet': its row group 0 needs more than 1 MB\. Write "):
            group_sizes(table, file)


def test_reads_no_more_of_a_row_group_than_its_file_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = images(tmp_path / "t.parquet", 2**20, 20)
    monkeypatch.setattr(parquet, "MOST_KEPT_BYTES", 8 * 2**20)
    message = r"^'t\.parquet': its row group 0 needs more than 8 MB\. Write the table again with row groups "
    with open_table(file) as table, pytest.raises(DataError, match=message):
        group_rows(table, file, ["image"], 0)
    real = tmp_path / "real.parquet"
    pq.write_table(pa.table({"image": [os.urandom(2**20) for _ in range(20)]}), real)
    with open_table(real) as table:
        assert len(group_rows(table, real, ["image"], 0)) == 20


def test_rejects_a_cell_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = images(tmp_path / "t.parquet", 2 * 2**20, 1)
    monkeypatch.setattr(parquet, "MOST_CELL_BYTES", 2**20)
    message = r"^'t\.parquet': a cell of its column 'image' takes 2 MB, at most 1 MB are read\. Store a small"
    with open_table(file) as table, pytest.raises(DataError, match=message):
        next(row_batches(table, file, ["image"], 1, 0))


@pytest.mark.parametrize("group", [-1, 1])
def test_names_a_row_group_that_is_gone(tmp_path: Path, group: int) -> None:
    file = images(tmp_path / "t.parquet", 1, 1)
    message = rf"^'t\.parquet' has no row group {group}\. Load the pairs again\.$"
    with open_table(file) as table, pytest.raises(DataError, match=message):
        group_rows(table, file, ["image"], group)
