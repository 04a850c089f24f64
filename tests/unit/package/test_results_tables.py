"""Tables of README.md and docs/ show the figures of docs/results."""

import json
import re
from pathlib import Path

import pytest

from instructbrush.tools.results_tables import PAGES, marked_parts, updated

TABLE = """# Results

<!-- results: bench
columns: psnr 2, lpips 3, share 1%, -
rows: words, ours, - -->
| | PSNR ↑ | LPIPS ↓ | right | note |
|---|---|---|---|---|
| words | 17.13 | .287 | 12.5 % | a |
| **ours** | **24.81 ± .40** | **.151** | 100.0 % | b |
| other work | 3 | 4 | 5 | c |

Text.
"""
METHODS = {
    "words": {"psnr": 17.1299, "lpips": 0.2871, "share": 0.125},
    "ours": {"psnr": 24.8149, "psnr_ci95": 0.4, "lpips": 0.1512, "share": 1.0},
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "bench.json").write_text(json.dumps({"methods": METHODS}))
    return tmp_path


def pages(repository: Path) -> list[Path]:
    return [path for pattern in PAGES for path in sorted(repository.glob(pattern))]


def test_tables_of_the_docs_equal_their_results(repository):
    faults = []
    for path in pages(repository):
        _, found = updated(path.read_text("utf-8"), repository / "docs" / "results")
        faults += [f"{path.name}: {fault}" for fault in found]
    assert faults == [], "run .venv/bin/python tools/results_tables.py --write"


def test_every_results_file_is_shown(repository):
    named = {marked.file for path in pages(repository) for marked in marked_parts(path.read_text("utf-8"))}
    files = {path.stem for path in (repository / "docs" / "results").glob("*.json")}
    assert files - named == set()


def test_every_table_of_the_benchmarks_says_where_its_figures_are_from(repository):
    page = (repository / "docs" / "benchmarks.md").read_text("utf-8")
    tables = re.findall(r"(.*)\n(\|.*)\n\|[-|]+\|\n((?:\|.*\n)+)", page)
    measured = [(above, head) for above, head, body in tables if re.search(r"\.\d", body)]
    assert len(measured) > 2
    unsaid = [head for above, head in measured if not above.endswith("-->")]
    assert unsaid == []


def test_accepts_a_table_that_equals_its_results(results):
    assert updated(TABLE, results) == (TABLE, [])


def test_writes_the_figures_of_the_results(results):
    stale = TABLE.replace("**24.81 ± .40**", "23.00").replace("17.13", "**17.1**")
    page, faults = updated(stale, results)
    assert page == TABLE
    assert len(faults) == 2 and "should be '| words | 17.13 |" in faults[0]


def test_finds_rows_and_figures_that_do_not_exist(results):
    for old, new, fault in (
        ("words, ours", "words, gone", "has no row gone, only words, ours"),
        ("psnr 2", "ssim 2", "no row of 'bench' has a figure 'ssim'"),
        ("psnr 2", "psnr", "'psnr' is not a figure with its number of decimals"),
        ("words, ours, -", "words, ours", "has 3 rows and 4 columns of figures; its comment names 2 and 4"),
        ("results: bench", "results: other", "docs/results/other.json does not exist"),
    ):
        page, faults = updated(TABLE.replace(old, new), results)
        assert page == TABLE.replace(old, new)
        assert len(faults) == 1 and fault in faults[0]


def test_checks_figures_in_text(results):
    page = (
        "<!-- results: bench: words.psnr 1, ours.lpips 3 -->\nWords reach 17.1 dB, ours .151.\n\nMore: .2\n"
    )
    assert updated(page, results) == (page, [])
    _, faults = updated(page.replace("17.1 ", "17.11 "), results)
    assert faults == ["words.psnr is 17.1"]
    _, faults = updated(page.replace("words.psnr", "words.ssim"), results)
    assert faults == ["'words.ssim 1' is not row.figure and decimals of 'bench'."]


def test_pending_tables_become_results_when_their_file_exists(results, tmp_path):
    pending = TABLE.replace("<!-- results:", "<!-- results pending:").replace("17.13", "?")
    assert updated(pending, tmp_path / "empty") == (pending, [])
    page, faults = updated(pending, results)
    assert page == TABLE
    assert "'bench' is not pending any more: its file exists." in faults
    # Other comments stay pending.
    other = pending.replace("pending: bench", "pending: other")
    assert updated(TABLE + other, results)[0] == TABLE + other
