"""Randomly damaged files of every kind in every reader."""

from pathlib import Path

import pytest

from instructbrush.tools.torture import files, mutations
from instructbrush.tools.torture.readers import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reads_or_rejects_damaged_files(case: Case) -> None:
    counts = files.run(30 if case.share < 0.1 else 150, 1, (case,))
    assert counts["tried"] and counts["valid"] + counts["refused"] == counts["tried"]


def test_counts_unexpected_errors(capsys: pytest.CaptureFixture[str]) -> None:
    def write(folder: Path) -> Path:
        (folder / "x").write_bytes(b"sound")
        return folder / "x"

    def read(file: Path) -> None:
        if file.read_bytes() != b"sound":
            raise KeyError("it was not sound")

    counts = files.run(20, 0, (Case("text", write, read, mutations.of_bytes),))
    assert counts["escaped"] > 5 and counts["escaped"] + counts["valid"] == counts["tried"] == 20
    assert capsys.readouterr().err.count("KeyError: 'it was not sound'") == 5
