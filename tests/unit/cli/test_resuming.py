"""The command learn when it is stopped, killed or has no space: it keeps what is learned, and resumes."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from instructbrush.cli import main as commandline
from instructbrush.core.instruction.file import load_instruction
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.storage.image_tensors import to_image
from instructbrush.tests.unit.learning.checkpoint_files import change

_EAGER = """
import sys
from instructbrush.cli import learn
from instructbrush.cli.main import main
learn.CHECKPOINT_SECONDS = 0.1
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder with a pair of 64 x 64 pixels."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    image = (
        torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
        .repeat_interleave(16, 0)
        .repeat_interleave(16, 1)
    )
    to_image(image).save(folder / "0_0.png")
    to_image(image * 0.5).save(folder / "0_1.png")
    return folder


def learn(pairs: Path, out: Path, *more: object) -> list[str]:
    return [
        str(part)
        for part in (
            "learn",
            "--pairs",
            pairs,
            "--out",
            out,
            "--begin",
            "words",
            "--steps",
            4,
            "--device",
            "cpu",
            *more,
        )
    ]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Calls ``act`` after a step."""
    own = Trainer.run

    def run(self: Trainer, callback: Callable[[int, int], None]) -> None:
        def after(done: int, total: int) -> None:
            if done == step:
                act()
            callback(done, total)

        own(self, after)

    monkeypatch.setattr(Trainer, "run", run)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Limits the size of the files that this process writes, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_resumes_after_ctrl_c_under_another_name_with_more_steps(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pairs.parent
    with monkeypatch.context() as patch:
        stop_at(patch, 2, ctrl_c)
        assert commandline.main(learn(pairs, folder / "a.safetensors")) == 130
    assert "stopped at step 2; the same command resumes there" in capsys.readouterr().err
    assert commandline.main(learn(pairs, folder / "b.safetensors", "--steps", 5)) == 0
    assert "resuming at step 2" in capsys.readouterr().err
    assert load_instruction(folder / "b.safetensors").info.steps == 5
    assert sorted(path.name for path in folder.iterdir()) == ["b.safetensors", "pairs"], (
        "no checkpoint is left"
    )


def test_reports_a_damaged_checkpoint_of_another_name_and_keeps_it(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pairs.parent
    with monkeypatch.context() as patch:
        stop_at(patch, 2, ctrl_c)
        assert commandline.main(learn(pairs, folder / "a.safetensors")) == 130
    change(folder / ".a.checkpoint", {"losses": None})
    assert commandline.main(learn(pairs, folder / "b.safetensors")) == 0
    message = (
        r"Checkpoint '\.a\.checkpoint' is damaged: tensor 'losses' is missing\. "
        r"Remove it\. Learning starts from the beginning\."
    )
    assert re.search(message, capsys.readouterr().err)
    assert load_instruction(folder / "b.safetensors").info.steps == 4
    assert (folder / ".a.checkpoint").exists()


def test_leaves_out_unreadable_pairs_unless_strict(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in (0, 1):
        (pairs / f"1_{side}.png").write_bytes(b"no image")
    out = pairs.parent / "a.safetensors"
    assert commandline.main(learn(pairs, out, "--strict")) == 1
    assert re.search(r"instructbrush: Image '1_0\.png' cannot be read", capsys.readouterr().err)
    assert not out.exists()
    assert commandline.main(learn(pairs, out)) == 0
    assert "1 pair left out, 1 pair remains." in capsys.readouterr().err


def test_replaces_a_checkpoint_of_another_run_only_with_overwrite(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pairs.parent / "a.safetensors"
    with monkeypatch.context() as patch:
        stop_at(patch, 2, ctrl_c)
        assert commandline.main(learn(pairs, out)) == 130
    assert commandline.main(learn(pairs, out, "--seed", 1)) == 1
    message = r"seed \(0 there, 1 here\) differs\. Choose another --out, or add --overwrite to start again\."
    assert re.search(message, capsys.readouterr().err)
    assert commandline.main(learn(pairs, out, "--seed", 1, "--overwrite")) == 0
    assert load_instruction(out).info.settings["seed"] == 1


def test_keeps_the_instruction_elsewhere_when_its_folder_vanishes(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, elsewhere = pairs.parent / "out", pairs.parent / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))

    def vanish() -> None:
        shutil.rmtree(folder)
        folder.touch()

    stop_at(monkeypatch, 2, vanish)
    assert commandline.main(learn(pairs, folder / "a.safetensors")) == 1
    (kept,) = elsewhere.rglob("a.safetensors")
    stderr = capsys.readouterr().err
    assert f"'a.safetensors' cannot be written to {folder}" in stderr
    assert stderr.endswith(f"The instruction is kept as {kept}.\n")
    assert load_instruction(kept).info.steps == 4


def test_keeps_the_checkpoint_elsewhere_after_ctrl_c_on_a_full_disk(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, elsewhere = pairs.parent / "out", pairs.parent / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))

    def vanish() -> None:
        shutil.rmtree(folder)
        folder.touch()
        ctrl_c()

    with monkeypatch.context() as patch:
        stop_at(patch, 2, vanish)
        assert commandline.main(learn(pairs, folder / "a.safetensors")) == 130
    (kept,) = elsewhere.rglob(".a.checkpoint")
    assert f"The checkpoint is kept as {kept}: move it there to resume." in capsys.readouterr().err
    folder.unlink()
    folder.mkdir()
    shutil.move(kept, folder)
    assert commandline.main(learn(pairs, folder / "a.safetensors")) == 0
    assert "resuming at step 2" in capsys.readouterr().err


def test_resumes_after_memory_ran_out(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pairs.parent / "a.safetensors"

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        stop_at(patch, 3, full)
        assert commandline.main(learn(pairs, out)) == 1
    assert "memory ran out (CUDA out of memory). Free some, use smaller images" in capsys.readouterr().err
    assert commandline.main(learn(pairs, out)) == 0
    assert "resuming at step 3" in capsys.readouterr().err


@pytest.mark.parametrize("size", [0, 5_000, 300_000])
def test_reports_files_that_may_not_grow_and_loses_nothing(
    pairs: Path, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pairs.parent / "a.safetensors"
    with files_limited_to(size):
        code = commandline.main(learn(pairs, out))
    stderr = capsys.readouterr().err
    assert code == 1
    assert "'a.safetensors' cannot be written to" in stderr and "no space is left there" in stderr
    assert [path.name for path in pairs.parent.iterdir()] == ["pairs"]
    assert commandline.main(learn(pairs, out)) == 0


def test_keeps_what_is_learned_when_it_is_terminated(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pairs.parent / "a.safetensors"
    stop_at(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert commandline.main(learn(pairs, out)) == 143
    assert "stopped at step 2; the same command resumes there" in capsys.readouterr().err
    assert not out.exists()
    assert_resumes(pairs, out, 2)


@pytest.mark.slow
def test_keeps_what_is_learned_when_it_is_killed(pairs: Path) -> None:
    out = pairs.parent / "a.safetensors"
    checkpoint = out.with_name(".a.checkpoint")
    process = subprocess.Popen(
        [sys.executable, "-c", _EAGER, *learn(pairs, out, "--steps", 5000)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert_resumes(pairs, out)


def assert_resumes(pairs: Path, out: Path, steps: int | None = None) -> None:
    """Checks the checkpoint of a stopped run, which has so many steps, and that the run continues."""
    with safe_open(out.with_name(".a.checkpoint"), "pt") as file:
        done = int(file.get_tensor("steps_done"))
        identity = json.loads(file.metadata()["instructbrush.identity"])
    assert (done == steps if steps else done > 0) and identity["seed"] == 0
    assert commandline.main(learn(pairs, out, "--steps", done + 1)) == 0
    assert load_instruction(out).info.steps == done + 1
    assert sorted(path.name for path in pairs.parent.iterdir()) == ["a.safetensors", "pairs"]
