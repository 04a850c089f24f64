from pathlib import Path

import pytest

from instructbrush.core.generation.engine import journal as journal_module
from instructbrush.core.generation.engine.journal import Journal
from instructbrush.core.generation.engine.tables import RowResult

COLUMNS = {"sum": "number"}
KEPT = RowResult(0, ({"id": "a.0", "sum": 1.0}, {"id": "a.1", "sum": 2.5}))
REFUSED = RowResult(3, reason="it is blue", detail="very", id="b")


def test_keeps_rows_and_refusals(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows", COLUMNS)
    journal.add(KEPT)
    journal.add(REFUSED)
    journal.flush()
    assert Journal(tmp_path / "rows", COLUMNS).results() == {0: KEPT, 3: REFUSED}


def test_keeps_each_slow_row_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_SECONDS", 0.0)
    journal = Journal(tmp_path / "rows", COLUMNS)
    for number in range(3):
        journal.add(RowResult(number, ({"id": f"r{number}", "sum": 0.5},)))
        assert len(list((tmp_path / "rows").glob("*.parquet"))) == number + 1


def test_quick_rows_share_a_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows", COLUMNS)
    for number in range(50):
        journal.add(RowResult(number, ({"id": f"r{number}", "sum": 0.5},)))
    journal.flush()
    assert len(list((tmp_path / "rows").glob("*.parquet"))) <= 2
    assert len(Journal(tmp_path / "rows", COLUMNS).results()) == 50


def test_damaged_file_counts_as_missing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows", COLUMNS)
    journal.add(KEPT)
    journal.flush()
    (tmp_path / "rows/000009-1.parquet").write_bytes(b"PAR1")
    assert journal.results() == {0: KEPT}


def test_removes_its_files(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows", COLUMNS)
    journal.add(KEPT)
    journal.flush()
    journal.remove()
    assert not (tmp_path / "rows").exists()
