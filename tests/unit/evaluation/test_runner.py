"""Runs on effects: stopped, killed and resumed, in one process or several."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from instructbrush.core.editing.settings import SamplingSettings
from instructbrush.core.errors import EvaluationError, InstructBrushError, LearningError, StorageError
from instructbrush.core.evaluation.by_example.datasets.effect_files import EffectFiles
from instructbrush.core.evaluation.by_example.effects import Effect
from instructbrush.core.evaluation.by_example.methods import base as methods_module
from instructbrush.core.evaluation.by_example.results import EffectFolder, Outcome
from instructbrush.core.evaluation.by_example.run import EffectRunSettings
from instructbrush.core.evaluation.by_example.tables import text_tables
from instructbrush.core.evaluation.runner import run
from instructbrush.core.evaluation.workers import Workers
from instructbrush.core.pairs.pairs import EditPairs, make_pairs
from instructbrush.tools.benchmarks.pocket_bench import PocketEffect


@dataclass(frozen=True)
class SmallEffect:
    """A pocket effect with images of half the size, because runs on these are faster."""

    name: str

    def load(self) -> Effect:
        effect = PocketEffect(self.name).load()
        return replace(effect, train=halved(effect.train), test=halved(effect.test))


def halved(pairs: EditPairs) -> EditPairs:
    before = torch.stack([pair.before[::2, ::2] for pair in pairs])
    after = torch.stack([pair.after[::2, ::2] for pair in pairs])
    return make_pairs(before, after)


SOURCES = [SmallEffect("hue_75"), SmallEffect("teal_hat")]
TINY = EffectRunSettings(methods=("words", "instructbrush", "no_time"), steps=2, sampling=SamplingSettings(2))
KEYS = [(method, source.name, 0) for source in SOURCES for method in TINY.methods]


def execute(folder: Path, settings: EffectRunSettings = TINY, **options: Any) -> list[Outcome]:
    return run(SOURCES, settings, EffectFolder(folder), data="test", **options)


def figures(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Returns the outcomes without their time."""
    return [{**asdict(outcome), "seconds": 0, "learning_seconds": 0} for outcome in outcomes]


@pytest.fixture(autouse=True, scope="module")
def quick_phrases() -> Iterator[None]:
    """Replaces the search for phrases, which is slow and tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            methods_module,
            "unique_phrases",
            lambda clip, pairs, settings, cache: SimpleNamespace(init_text="turn it into snow"),
        )
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Outcome], Path]:
    """Outcomes and folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("bench") / "whole"
    return execute(folder), folder


def test_run_keeps_every_outcome_and_image(whole: tuple[list[Outcome], Path]) -> None:
    outcomes, folder = whole
    assert [outcome.key for outcome in outcomes] == KEYS
    for outcome in outcomes:
        assert (
            len(outcome.psnr) == len(outcome.ssim) == len(outcome.image_similarity) == 5
            and outcome.lpips is None
        )
        assert all(5 < value < 60 for value in outcome.psnr) and 0 <= outcome.direction <= 2
        assert all(
            (EffectFolder(folder).image(outcome.effect, outcome.method, 0, index)).is_file()
            for index in range(5)
        )
    assert not list(folder.rglob("*.part"))
    assert EffectFolder(folder).finished() == {outcome.key: outcome for outcome in outcomes}


@pytest.mark.slow
def test_stopped_run_resumes_with_the_same_figures(whole: tuple[list[Outcome], Path], tmp_path: Path) -> None:
    def stop(outcome: Outcome, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, on_outcome=stop)
    assert len(EffectFolder(tmp_path).finished()) == 4
    # A truncated file counts as missing.
    (tmp_path / "effects" / "hue_75" / "words-0.json").write_text('{"effect": "hu')
    seen = []
    resumed = execute(
        tmp_path, on_outcome=lambda outcome, done, total: seen.append((outcome.key, done, total))
    )
    assert seen == [
        (("words", "hue_75", 0), 4, 6),
        (("instructbrush", "teal_hat", 0), 5, 6),
        (("no_time", "teal_hat", 0), 6, 6),
    ]
    assert figures(resumed) == figures(whole[0])
    assert text_tables(resumed, "PocketBench") == text_tables(whole[0], "PocketBench")
    again = execute(tmp_path, on_outcome=lambda *given: pytest.fail("nothing was left to do"))
    assert figures(again) == figures(resumed)


def test_accepts_more_methods_and_seeds_but_no_other_settings(whole: tuple[list[Outcome], Path]) -> None:
    outcomes, folder = whole
    fewer = replace(TINY, methods=("words",))
    assert figures(execute(folder, fewer)) == [
        entry for entry in figures(outcomes) if entry["method"] == "words"
    ]
    with pytest.raises(
        EvaluationError,
        match="holds results of another run: sampling_steps was 2, now it is 3. Give another --out folder",
    ):
        execute(folder, replace(TINY, sampling=SamplingSettings(3)))
    two = execute(folder, replace(fewer, seeds=2))
    assert [outcome.seed for outcome in two] == [0, 1, 0, 1] and two[0].psnr != two[1].psnr


def test_rejects_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(
        EvaluationError, match="holds other files, not results of a benchmark. Give another --out folder."
    ):
        execute(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.slow
def test_changes_learning_settings_by_name(whole: tuple[list[Outcome], Path], tmp_path: Path) -> None:
    changed = replace(
        TINY,
        methods=("instructbrush",),
        changes=("attention.tokens=4", "attention.objective=guided", "text.clip_norm=null"),
    )
    outcomes = execute(tmp_path, changed)
    assert all(
        mine.final_loss != other.final_loss
        for mine, other in zip(
            outcomes, [one for one in whole[0] if one.method == "instructbrush"], strict=True
        )
    )
    changed_back = replace(changed, changes=())
    told = "holds results of another run: instructbrush: attention.tokens was 4, now it is 16. Give another"
    with pytest.raises(EvaluationError, match=told):
        execute(tmp_path, changed_back)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "tokens=4",
            "is not SPACE.NAME=VALUE with a space of attention, text, adapter and a name of tokens",
        ),
        ("attention.magic=4", "is not SPACE.NAME=VALUE"),
        ("attention.tokens=4.5", "attention.tokens is '4.5'; it must be of type int"),
        ("attention.tokens=0", "tokens is 0; it must lie between 1 and 4096"),
        ("attention.include_bos=1", "include_bos is '1'; it must be of type bool"),
        ("attention.objective=better", "objective is 'better'; it must be one of plain, guided"),
        ("attention.direction_weight=1", "direction_weight acts on text states"),
    ],
)
def test_rejects_invalid_changes(change: str, message: str) -> None:
    with pytest.raises(LearningError, match=re.escape(message)):
        EffectRunSettings(changes=(change,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"methods": ("words", "magic")},
            "Method 'magic' does not exist. Choose from words, visii, instructbrush",
        ),
        ({"methods": ()}, "Method '' does not exist"),
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"first_seed": 1}, "the first seed is 1; it must lie between 0 and 0"),
    ],
)
def test_rejects_settings_out_of_range(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        EffectRunSettings(**change)


def test_checks_workers_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match="0 jobs are out of range"):
        execute(tmp_path / "none", workers=Workers(0))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        EvaluationError,
        match="--ray needs the ray package, which is not installed. Run: pip install ray, or use --jobs.",
    ):
        execute(tmp_path / "none", workers=Workers(ray=True))
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_killed_run_leaves_no_process_and_resumes_with_the_same_table(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from instructbrush.tools.benchmarks.pocket_bench import main

    backbone = random_alexnet(tmp_path / "alexnet.safetensors")
    options = [
        "--split",
        "development",
        "--effects",
        "hue_75",
        "teal_hat",
        "--methods",
        "words",
        "--seeds",
        "2",
        "--sampling-steps",
        "1",
        "--lpips",
        str(backbone),
    ]
    killed, out = tmp_path / "killed", tmp_path / "whole"
    command = [
        sys.executable,
        repository / "tools" / "benchmarks" / "pocket_bench.py",
        *options,
        "--jobs",
        "2",
        "--out",
        killed,
    ]
    process = subprocess.Popen(
        [str(part) for part in command], cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while (
        len(list(killed.glob("effects/*/*.json"))) < 1
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline and group_lives(process.pid):
        time.sleep(0.1)
    assert not group_lives(process.pid), "workers outlived the benchmark"
    kept = len(list(killed.glob("effects/*/*.json")))
    assert 1 <= kept <= 4

    tables = []
    for folder in (killed, out):
        assert main([*options, "--jobs", "1", "--out", str(folder)]) == 0
        printed = capsys.readouterr().out
        assert printed.count(" dB (") == (4 - kept if folder == killed else 4)
        tables.append(
            printed[printed.index("Table 1") : printed.index("report.html")].replace(str(folder), "")
        )
        last = printed.splitlines()[-1]
        assert (
            last.startswith('{"methods": {"words": {"psnr": ')
            and '"lpips": 0.' in last
            and '"psnr_ci95": ' in last
        )
    assert tables[0] == tables[1]


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    # Ended processes keep their id until their parent waits for them.
    states = subprocess.run(
        ["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True
    ).stdout.split()
    return any(not state.startswith("Z") for state in states)


def random_alexnet(path: Path) -> Path:
    shapes = {
        0: (64, 3, 11, 11),
        3: (192, 64, 5, 5),
        6: (384, 192, 3, 3),
        8: (256, 384, 3, 3),
        10: (256, 256, 3, 3),
    }
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"features.{layer}.weight": torch.randn(shape, generator=generator) * 0.05
        for layer, shape in shapes.items()
    }
    save_file(
        weights | {f"features.{layer}.bias": torch.zeros(shape[0]) for layer, shape in shapes.items()}, path
    )
    return path


def missing_images(folder: Path) -> EffectFiles:
    gone = tuple((str(index), folder / "a.png", folder / "b.png") for index in range(10))
    return EffectFiles("snow", "global", "make it snow", gone, gone[:5])


def test_raises_the_error_of_an_effect(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="Effect 'snow': Image 'a.png' cannot be read"):
        run(
            [missing_images(tmp_path)],
            replace(TINY, methods=("words",)),
            EffectFolder(tmp_path / "out"),
            data="test",
        )


def test_ray_matches_one_process(whole: tuple[list[Outcome], Path], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        settings = replace(TINY, methods=("words",))
        outcomes = execute(tmp_path / "out", settings, workers=Workers(ray=True))
        wanted = [outcome for outcome in whole[0] if outcome.method == "words"]
        assert [outcome.key for outcome in outcomes] == [outcome.key for outcome in wanted]
        for found, expected in zip(outcomes, wanted, strict=True):
            assert found.psnr == pytest.approx(expected.psnr, abs=1e-3)
            assert EffectFolder(tmp_path / "out").image(found.effect, "words", 0, 4).is_file()
        with pytest.raises(EvaluationError, match="Effect 'snow': Image 'a.png' cannot be read"):
            run(
                [missing_images(tmp_path)],
                settings,
                EffectFolder(tmp_path / "bad"),
                data="test",
                workers=Workers(ray=True),
            )
    finally:
        ray.shutdown()


@pytest.mark.parametrize("jobs", [1, 2])
def test_skips_unreadable_sources_and_keeps_the_others(tmp_path: Path, jobs: int) -> None:
    sources, skipped = [missing_images(tmp_path), PocketEffect("teal_hat")], []
    settings = replace(TINY, methods=("words",), seeds=2)

    def skip(name: str, error: InstructBrushError) -> None:
        skipped.append((name, str(error)))

    outcomes = run(
        sources, settings, EffectFolder(tmp_path / "out"), data="test", workers=Workers(jobs), on_skipped=skip
    )
    assert [outcome.key for outcome in outcomes] == [("words", "teal_hat", seed) for seed in range(2)]
    ((name, told),) = skipped
    assert name == "snow" and re.match(r"Effect 'snow': Image 'a\.png' cannot be read", told)
    with pytest.raises(EvaluationError, match=re.escape(told)):
        run(sources, settings, EffectFolder(tmp_path / "out"), data="test", workers=Workers(jobs))


def test_rejects_unwritable_folder_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"'run\.json' cannot be written to .*file"):
        execute(tmp_path / "file")


def test_ignores_unfinished_files_of_a_killed_run(tmp_path: Path) -> None:
    (tmp_path / ".0123456789ab.xyz.part").touch()
    EffectFolder(tmp_path).begin({"data": "test"})
    assert (tmp_path / "run.json").exists()
