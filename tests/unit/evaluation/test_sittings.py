"""Runs on effects in several sittings: time limits, numbers of seeds, and changed settings of one method."""

import contextlib
import itertools
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instructbrush.cli import bench
from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.errors import EvaluationError, UnfinishedError
from instructbrush.core.evaluation import workers as workers_module
from instructbrush.core.evaluation.by_example.methods import base as methods_module
from instructbrush.core.evaluation.by_example.report import write_report
from instructbrush.core.evaluation.by_example.results import EffectFolder, Outcome
from instructbrush.core.evaluation.by_example.run import EffectRunSettings
from instructbrush.core.evaluation.runner import run
from instructbrush.core.evaluation.workers import Workers
from instructbrush.tools.benchmarks import pocket_bench
from instructbrush.tools.benchmarks.pocket_bench import PocketEffect

SOURCES = [PocketEffect("hue_75"), PocketEffect("teal_hat")]
TINY = EffectRunSettings(("words", "no_time"), steps=1, sampling=SamplingSettings(1))


def execute(folder: Path, settings: EffectRunSettings = TINY, **options: Any) -> list[Outcome]:
    return run(SOURCES, settings, EffectFolder(folder), data="test", **options)


def figures(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Returns the outcomes without their time."""
    return [{**asdict(outcome), "seconds": 0, "learning_seconds": 0} for outcome in outcomes]


@pytest.fixture(autouse=True)
def quick_phrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the search for phrases, which is slow and tested elsewhere."""
    monkeypatch.setattr(
        methods_module, "unique_phrases", lambda *given: SimpleNamespace(init_text="turn it into snow")
    )


def test_changed_settings_of_a_method_keep_the_results_of_others(tmp_path: Path) -> None:
    source, seen = SOURCES[:1], []

    def execute_once(settings: EffectRunSettings, redo: bool = False) -> list[Outcome]:
        seen.clear()
        return run(
            source,
            settings,
            EffectFolder(tmp_path, redo),
            data="test",
            on_outcome=lambda outcome, done, total: seen.append(outcome.method),
        )

    both = replace(TINY, methods=("words", "no_time"))
    before = execute_once(both)
    changed = replace(both, changes=("attention.tokens=4",))
    with pytest.raises(EvaluationError, match="no_time: attention.tokens was 16, now it is 4"):
        execute_once(changed)
    assert figures(execute_once(replace(changed, methods=("words",)))) == figures(before[:1]) and not seen
    after = execute_once(changed, redo=True)
    assert seen == ["no_time"] and after[0] == before[0] and after[1].psnr != before[1].psnr
    assert execute_once(changed) == after and not seen
    stored = EffectFolder(tmp_path).made_by(both.recipes())
    assert [outcome.method for outcome in stored.values()] == ["words"]


def test_folder_of_version_0_1_is_refused(tmp_path: Path) -> None:
    execute(tmp_path, replace(TINY, methods=("words",)))
    file = tmp_path / "run.json"
    file.write_text(file.read_text().replace("{", '{"presets": "0123456789abcdef",', 1))
    told = "holds results of another run: presets was '0123456789abcdef', now it is None. Give another"
    with pytest.raises(EvaluationError, match=told):
        execute(tmp_path, replace(TINY, methods=("words",)))


@pytest.mark.parametrize("jobs", [1, 2])
def test_begins_nothing_after_its_time(jobs: int, tmp_path: Path) -> None:
    workers = Workers(jobs, seconds=1e-9)
    words = replace(TINY, methods=("words",), seeds=2)
    stopped = "stopped after 1e-09 s with 0 of 4 results, which are kept. Run the same command again"
    with pytest.raises(UnfinishedError, match=stopped):
        execute(tmp_path, words, workers=workers)
    assert not EffectFolder(tmp_path).finished()


def test_same_command_continues_after_its_time(tmp_path: Path) -> None:
    words = replace(TINY, methods=("words",), seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        # A clock that ticks when it is read: once for the end, then before each outcome.
        patch.setattr(workers_module, "time", SimpleNamespace(monotonic=itertools.count().__next__))
        with pytest.raises(UnfinishedError, match="with 1 of 4 results"):
            execute(tmp_path, words, workers=Workers(seconds=2))
    assert list(EffectFolder(tmp_path).finished()) == [("words", "hue_75", 0)]
    assert len(execute(tmp_path, words, workers=Workers(seconds=600))) == 4


def test_processes_make_progress_within_less_time_than_they_need_to_start(tmp_path: Path) -> None:
    words = replace(TINY, methods=("words",), seeds=2)
    with contextlib.suppress(UnfinishedError):
        execute(tmp_path, words, workers=Workers(2, seconds=0.5))
    assert EffectFolder(tmp_path).finished()


_STOPS_EARLY = """
from pathlib import Path
from instructbrush.core.evaluation.by_example.datasets.effect_files import EffectFiles
from instructbrush.core.evaluation.protocols import WorkUnit
from instructbrush.core.evaluation.workers import Workers

gone = (("0", Path("a.png"), Path("b.png")),)
effects = [EffectFiles(str(index), "global", "make it snow", gone, gone) for index in range(5000)]
results = Workers(2).run([WorkUnit(effect, 0, ("words",)) for effect in effects], None, None)
print(next(results).error)
results.close()
"""


def test_processes_end_although_units_are_left() -> None:
    ended = subprocess.run([sys.executable, "-c", _STOPS_EARLY], capture_output=True, text=True, timeout=90)
    assert ended.returncode == 0 and "Image 'a.png' cannot be read" in ended.stdout, ended.stderr


def test_methods_may_have_different_numbers_of_seeds(tmp_path: Path) -> None:
    settings = replace(TINY, methods=("words", "no_time"), seeds=2, single_seed=("no_time",))
    order: list[Any] = []
    outcomes = run(
        SOURCES[:1],
        settings,
        EffectFolder(tmp_path),
        data="test",
        on_outcome=lambda outcome, done, total: order.append((outcome.method, outcome.seed, total)),
    )
    assert order == [("words", 0, 3), ("no_time", 0, 3), ("words", 1, 3)] and len(outcomes) == 3
    later = replace(settings, first_seed=1)
    assert [outcome.key for outcome in execute(tmp_path, replace(later, methods=("words",)))] == [
        ("words", "hue_75", 1),
        ("words", "teal_hat", 1),
    ]


def test_a_run_goes_on_elsewhere_from_one_file_of_results(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"

    def go_on(folder: str, *methods: str) -> tuple[list[Outcome], list[str]]:
        seen: list[str] = []
        results = EffectFolder(tmp_path / folder, file=file)
        outcomes = run(
            SOURCES,
            replace(TINY, methods=methods),
            results,
            data="test",
            on_outcome=lambda outcome, *_: seen.append(outcome.method),
        )
        results.write_file()
        write_report(results, outcomes, SOURCES, "test", {})
        return outcomes, seen

    first, seen = go_on("here", "words")
    assert seen == ["words"] * 2
    both, seen = go_on("there", "words", "no_time")
    assert seen == ["no_time"] * 2 and [each for each in both if each.method == "words"] == first
    page = (tmp_path / "there" / "report.html").read_text()
    assert "no_time-0-0.png" in page and "words-0-0.png" not in page
    again, seen = go_on("third", "words", "no_time")
    assert again == both and not seen and len(file.read_text().splitlines()) == 5


def test_an_interrupt_keeps_the_file_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.jsonl"
    places = ["--out", str(tmp_path / "out"), "--results", str(file)]
    options = pocket_bench._parser().parse_args([*places, "--methods", "words", "--sampling-steps", "1"])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench._ProgressLines, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run_and_report(options, SOURCES, "test", "test")
    assert len(file.read_text().splitlines()) > 1


def test_refuses_unknown_methods_for_one_seed() -> None:
    with pytest.raises(EvaluationError, match="Method 'lora_r61' does not exist"):
        replace(TINY, single_seed=("lora_r61",))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"data": "test"', '"data": "other"', "holds results of another run: data was 'other'"),
        ('"format": 1', '"format": 9', r"line 1: it does not describe a run\)"),
        ('"hue_75"', "null", "line 2: effect .*Give another --results file"),
        ('"psnr": [', '"psnr": [1.0, ', r"line 2: figures are missing\)"),
        ("\n", "", "line 1: "),
    ],
)
def test_file_of_results_that_does_not_fit_is_kept_and_refused(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    file = tmp_path / "results.jsonl"
    folder = EffectFolder(tmp_path / "here", file=file)
    settings = replace(TINY, methods=("words",))
    run(SOURCES, settings, folder, data="test")
    folder.write_file()
    changed = file.read_text().replace(old, new, 1)
    file.write_text(changed)
    with pytest.raises(EvaluationError, match=told):
        run(SOURCES, settings, EffectFolder(tmp_path / "there", file=file), data="test")
    assert file.read_text() == changed and not (tmp_path / "there").exists()
