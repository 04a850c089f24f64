"""Runs that are stopped, killed or find no room: what was learned is kept, and the same command goes on."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from instructbrush.cli import main as commandline
from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.encoders.clip import pocket_clip
from instructbrush.core.errors import LearningError, StorageError
from instructbrush.core.instruction.file import load_instruction
from instructbrush.core.learning import checkpoint as checkpoints
from instructbrush.core.learning.checkpoint import (
    CheckpointSchedule,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from instructbrush.core.learning.init_text.vocabulary import list_features
from instructbrush.core.learning.objective import PairLatents
from instructbrush.core.learning.request import InitText, LearningRequest
from instructbrush.core.learning.settings import POCKET, LearningSettings
from instructbrush.core.learning.trainer import Trainer
from instructbrush.core.reasoning.state_cache import StateStore
from instructbrush.core.storage.files import write_elsewhere, write_text
from instructbrush.core.storage.image_tensors import to_image

SMALL = replace(POCKET, steps=6, tokens=2, segments=2)
_LIMITED = """
import resource, sys
from instructbrush.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""
_EAGER = """
import sys
from instructbrush.cli import learn
from instructbrush.cli.main import main
learn.CHECKPOINT_SECONDS = 0.1
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def make(editor: DiffusersEditor) -> Callable[..., Trainer]:
    """A small run."""
    generator = torch.Generator().manual_seed(3)
    latents = PairLatents(*(list(torch.randn(2, 4, 8, 8, generator=generator)) for _ in range(2)))
    context, null = editor.encode_text(["make it snow", ""])

    def make(settings: LearningSettings = SMALL, words: str = "make it snow") -> Trainer:
        init_text = InitText(words, context, 3)
        return Trainer(LearningRequest(editor.denoiser, latents, init_text, null, settings))

    return make


@pytest.fixture
def kept(make: Callable[..., Trainer], tmp_path: Path) -> Path:
    """The checkpoint of three of six steps."""
    trainer = make()
    for _ in range(3):
        trainer.step()
    return save_checkpoint(trainer, tmp_path / ".snow.checkpoint")


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


def change(path: Path, changes: Mapping[str, Tensor | None], metadata: dict[str, str] | None = None) -> None:
    """Replace tensors of a checkpoint; None takes one out."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() if metadata is None else metadata
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, metadata)


MOMENT = "optimiser.exp_avg.keys.{site}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({MOMENT: None}, r"tensor 'optimiser\.exp_avg\.keys\..*' is missing"),
        ({"optimiser.x": torch.zeros(1)}, r"tensor 'optimiser\.x' is unknown"),
        ({"nonsense": torch.zeros(1)}, r"tensor 'nonsense' is unknown"),
        (
            {MOMENT: torch.zeros(0)},
            r"tensor 'optimiser\.exp_avg\.keys\..*' is float32 \[0\], not float32 \[2, 64\]",
        ),
        ({MOMENT: torch.zeros(2, 64, dtype=torch.float16)}, r"is float16 \[2, 64\], not float32 \[2, 64\]"),
        ({MOMENT: torch.full((2, 64), float("nan"))}, r"is not finite"),
        (
            {"optimiser.step.keys.{site}": torch.tensor(-1.0)},
            r"tensor 'optimiser\.step\.keys\..*' is negative",
        ),
        ({"parameter.keys.{site}": None}, r"tensor 'parameter\.keys\..*' is missing"),
        (
            {"stream.0.generator": torch.zeros(3)},
            r"segment 0: tensor 'generator' is float32 \[3\], not uint8 \[5056\]",
        ),
        (
            {"stream.0.generator": torch.full((5056,), 255, dtype=torch.uint8)},
            r"segment 0: its generator has no such state",
        ),
        (
            {"stream.1.position": torch.zeros(2)},
            r"segment 1: tensor 'position' is float32 \[2\], not int64 \[\]",
        ),
        ({"stream.1.position": torch.tensor(501)}, r"segment 1: its order is no pass over its timesteps"),
        (
            {"stream.1.order": torch.zeros(500, dtype=torch.int64)},
            r"segment 1: its order is no pass over its timesteps",
        ),
        ({"stream.0.order": torch.tensor(3)}, r"segment 0: tensor 'order' is int64 \[\], not int64 \[500\]"),
        ({"losses": torch.zeros(2, dtype=torch.float64)}, r"it has 3 steps and 2 losses"),
        (
            {"losses": torch.tensor(0.0, dtype=torch.float64)},
            r"tensor 'losses' is float64 \[\], not float64 \[1\]",
        ),
        ({"steps_done": torch.tensor(-3)}, r"it has -3 steps and 3 losses"),
        ({"steps_done": torch.zeros(2)}, r"tensor 'steps_done' is float32 \[2\], not int64 \[\]"),
        ({"steps_done": None}, r"tensor 'steps_done' is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_changes_nothing(
    make: Callable[..., Trainer], kept: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    trainer = make()
    site = next(
        name
        for name in trainer.parameters
        if name.startswith("keys.") and trainer.parameters[name].shape[-1] == 64
    ).removeprefix("keys.")
    change(kept, {name.format(site=site): tensor for name, tensor in changes.items()})
    before = {name: tensor.clone() for name, tensor in trainer.state().items()}
    with pytest.raises(
        LearningError,
        match=rf"^Checkpoint '\.snow\.checkpoint' is damaged: .*{message}\. Remove it to begin anew\.$",
    ):
        load_checkpoint(trainer, kept)
    after = trainer.state()
    assert before.keys() == after.keys() and all(
        torch.equal(tensor, after[name]) for name, tensor in before.items()
    )


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"is not a checkpoint of a learning run\. Remove"),
        (
            {"instructbrush.run": "0" * 64},
            r"was written by an older version, which this one cannot resume\. Remove",
        ),
        ({"instructbrush.identity": "[" * 100_000}, r"is damaged: it is nested too deeply\. Remove"),
        ({"instructbrush.identity": "[]"}, r"is damaged: it does not say which run it belongs to\. Remove"),
        ({"instructbrush.identity": "{}"}, r"belongs to another run: model, pairs, words .* differ\. Remove"),
    ],
)
def test_checkpoints_of_nobody_are_named(
    make: Callable[..., Trainer], kept: Path, metadata: dict[str, str], message: str
) -> None:
    change(kept, {}, metadata)
    with pytest.raises(LearningError, match=message):
        load_checkpoint(make(), kept)
    assert find_checkpoint(make(), kept.parent, ".*.checkpoint", 6) is None


def test_every_byte_of_a_checkpoint_may_be_wrong(make: Callable[..., Trainer], kept: Path) -> None:
    whole, trainer = kept.read_bytes(), make()
    draw = torch.Generator().manual_seed(0)
    places = torch.randint(len(whole), (60,), generator=draw).tolist() + list(range(0, 200, 5))
    for place in places:
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            load_checkpoint(trainer, kept)
        except LearningError as error:
            assert str(error).endswith("Remove it to begin anew.")
    for length in (0, 7, 8, 100, len(whole) - 1):
        kept.write_bytes(whole[:length])
        with pytest.raises(LearningError, match="cannot be read"):
            load_checkpoint(trainer, kept)


def test_more_steps_and_other_previews_go_on_with_the_same_run(
    make: Callable[..., Trainer], kept: Path
) -> None:
    longer = make(replace(SMALL, steps=8, text_scale=3.0, image_scale=1.0))
    load_checkpoint(longer, kept)
    longer.run()
    assert longer.steps_done == 8 and longer.instruction().info.settings["steps"] == 8
    whole = make()
    whole.run()
    # What was done keeps the rates that it had; what follows has those of the longer run.
    assert longer.losses[:4] == whole.losses[:4] and longer.losses[5] != whole.losses[5]
    assert make(replace(SMALL, steps=8)).request.digest() == make().request.digest()


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        (SMALL, "make it rain", r'words \("make it snow" there, "make it rain" here\) differs'),
        (
            replace(SMALL, seed=2**64 - 1),
            "make it snow",
            r"seed \(0 there, 18446744073709551615 here\) differs",
        ),
        (
            replace(SMALL, tokens=3, learning_rate=0.01),
            "make it snow",
            r"tokens \(2 there, 3 here\), learning_rate \(0\.06 there, 0\.01 here\) differ",
        ),
        (
            replace(SMALL, objective="guided"),
            "make it snow",
            r"objective .* text_scale \(null there, 2\.0 here\)",
        ),
    ],
)
def test_what_differs_from_the_run_of_a_checkpoint_is_named(
    make: Callable[..., Trainer], kept: Path, settings: LearningSettings, words: str, message: str
) -> None:
    with pytest.raises(LearningError, match=rf"belongs to another run: {message}"):
        load_checkpoint(make(settings, words), kept)


def test_seeds_have_64_bits() -> None:
    with pytest.raises(LearningError, match=r"seed is -1, it must lie between 0 and 18446744073709551615"):
        replace(SMALL, seed=-1)
    with pytest.raises(LearningError, match=r"seed is 18446744073709551616"):
        replace(SMALL, seed=2**64)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_checkpoints_come_soon_and_as_often_as_their_cost_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cost, saved = Clock(), 0.01, []
    monkeypatch.setattr(checkpoints, "time", clock)

    def save() -> None:
        saved.append(clock.now - 100)
        clock.now += cost

    schedule = CheckpointSchedule(save, lambda _: None)
    for _ in range(600):
        clock.now += 0.5
        schedule.save_if_due()
        cost = 1.0 if len(saved) == 3 else cost
    assert saved[0] == 10.0 and 10 <= saved[1] - saved[0] < 11
    assert (
        all(after - before >= 50 for before, after in zip(saved[3:], saved[4:], strict=False))
        and len(saved) > 5
    )


def test_a_checkpoint_that_cannot_be_written_is_told_once_and_so_is_that_it_can_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, told, errors = (
        Clock(),
        [],
        [StorageError("Full."), StorageError("Full."), StorageError("Gone."), None, None],
    )
    monkeypatch.setattr(checkpoints, "time", clock)

    def save() -> None:
        error = errors.pop(0)
        if error is not None:
            raise error

    schedule = CheckpointSchedule(save, told.append)
    while errors:
        clock.now += 10
        schedule.save_if_due()
    rest = "Learning continues; what it learns is only in memory for now."
    assert told == [f"Full. {rest}", f"Gone. {rest}", "The checkpoint can be written again."]


def test_what_cannot_be_written_anywhere_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = write_elsewhere("x.txt", lambda path: write_text("kept", path))
    assert place is not None and place.name == "x.txt" and place.read_text() == "kept"

    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    assert write_elsewhere("y.txt", full) is None
    assert os.listdir(tmp_path) == [place.parent.name]


def test_caches_that_cannot_be_written_are_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    clip = pocket_clip("cpu")
    phrases, features = list_features(clip, "pocket", tmp_path / "file")
    assert len(phrases) == len(features)
    store = StateStore(tmp_path / "file", most_memory=0)
    for key in ("a", "b"):
        store.put(key, torch.ones(1, 2))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, "once for each cache"
    assert re.search(
        r"cannot be written to .*file: .* The features of its phrases will be computed again\.", told[0]
    )
    assert re.search(
        r"States of an MLLM could not be kept in .*file .*; they will be computed again\.", told[1]
    )


def learn(pairs: Path, out: Path, *more: object) -> list[str]:
    return [
        str(part)
        for part in ("learn", "--pairs", pairs, "--out", out, "--steps", 4, "--device", "cpu", *more)
    ]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Let something happen between two steps."""
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


def test_another_name_and_more_steps_go_on_where_ctrl_c_stopped(
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


def test_a_damaged_checkpoint_of_another_name_is_told_and_left(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pairs.parent
    with monkeypatch.context() as patch:
        stop_at(patch, 2, ctrl_c)
        assert commandline.main(learn(pairs, folder / "a.safetensors")) == 130
    change(folder / ".a.checkpoint", {"losses": None})
    assert commandline.main(learn(pairs, folder / "b.safetensors")) == 0
    told = r"Checkpoint '\.a\.checkpoint' is damaged: tensor 'losses' is missing\. Remove it\. Learning starts anew\."
    assert re.search(told, capsys.readouterr().err)
    assert load_instruction(folder / "b.safetensors").info.steps == 4
    assert (folder / ".a.checkpoint").exists()


@pytest.mark.parametrize(
    "steps", [torch.tensor(float("inf")), torch.tensor(float("nan")), torch.zeros(2), None]
)
def test_a_checkpoint_without_a_number_of_steps_is_passed_over(
    make: Callable[..., Trainer], kept: Path, steps: Tensor | None
) -> None:
    change(kept, {"steps_done": steps})
    assert find_checkpoint(make(), kept.parent, ".*.checkpoint", 6) is None


def test_a_pair_that_cannot_be_read_is_left_out_unless_the_run_is_strict(
    pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in (0, 1):
        (pairs / f"1_{side}.png").write_bytes(b"no image")
    out = pairs.parent / "a.safetensors"
    assert commandline.main(learn(pairs, out, "--strict")) == 1
    assert re.search(r"instructbrush: Image '1_0\.png' cannot be read", capsys.readouterr().err)
    assert not out.exists()
    assert commandline.main(learn(pairs, out)) == 0
    assert "1 pair left out, 1 pair remains." in capsys.readouterr().err


def test_a_checkpoint_of_another_run_gives_way_to_overwrite_alone(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pairs.parent / "a.safetensors"
    with monkeypatch.context() as patch:
        stop_at(patch, 2, ctrl_c)
        assert commandline.main(learn(pairs, out)) == 130
    assert commandline.main(learn(pairs, out, "--seed", 1)) == 1
    told = r"seed \(0 there, 1 here\) differs\. Choose another --out, or add --overwrite to begin anew\."
    assert re.search(told, capsys.readouterr().err)
    assert commandline.main(learn(pairs, out, "--seed", 1, "--overwrite")) == 0
    assert load_instruction(out).info.settings["seed"] == 1


def test_an_instruction_whose_folder_vanishes_is_kept_elsewhere(
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
    assert f"'a.safetensors' cannot be written to {folder}" in (told := capsys.readouterr().err)
    assert told.endswith(f"The instruction is kept as {kept}.\n")
    assert load_instruction(kept).info.steps == 4


def test_ctrl_c_on_a_full_disk_keeps_the_checkpoint_elsewhere(
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
    assert f"The checkpoint was kept as {kept}: move it there to go on." in capsys.readouterr().err
    folder.unlink()
    folder.mkdir()
    shutil.move(kept, folder)
    assert commandline.main(learn(pairs, folder / "a.safetensors")) == 0
    assert "resuming at step 2" in capsys.readouterr().err


def test_memory_that_runs_out_leaves_a_checkpoint_and_the_next_run_goes_on(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pairs.parent / "a.safetensors"

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        stop_at(patch, 3, full)
        with pytest.raises(torch.OutOfMemoryError):
            commandline.main(learn(pairs, out))
    assert commandline.main(learn(pairs, out)) == 0
    assert "resuming at step 3" in capsys.readouterr().err


def in_a_process(code: str, *arguments: object) -> "subprocess.Popen[bytes]":
    def heed() -> None:
        # Whoever started the tests may have had signals ignored, and children inherit that.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed,
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 5_000, 500_000])
def test_files_that_may_not_grow_end_in_a_sentence_and_lose_nothing(pairs: Path, size: int) -> None:
    out = pairs.parent / "a.safetensors"
    command = learn(pairs, out)
    process = in_a_process(_LIMITED, size, *command)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1 and b"Traceback" not in told
    assert b"'a.safetensors' cannot be written to" in told and b"no space is left there" in told
    assert [path.name for path in pairs.parent.iterdir()] == ["pairs"]
    assert commandline.main(command) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_signals_keep_what_was_learned(pairs: Path, number: signal.Signals, code: int) -> None:
    out = pairs.parent / "a.safetensors"
    checkpoint = out.with_name(".a.checkpoint")
    process = in_a_process(_EAGER, *learn(pairs, out, "--steps", 5000))
    deadline = time.monotonic() + 100
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told[-500:].decode()
    with safe_open(checkpoint, "pt") as file:
        steps, identity = (
            int(file.get_tensor("steps_done")),
            json.loads(file.metadata()["instructbrush.identity"]),
        )
    assert steps > 0 and identity["seed"] == 0
    assert commandline.main(learn(pairs, out, "--steps", steps + 1)) == 0
    assert load_instruction(out).info.steps == steps + 1
    assert sorted(path.name for path in pairs.parent.iterdir()) == ["a.safetensors", "pairs"]
