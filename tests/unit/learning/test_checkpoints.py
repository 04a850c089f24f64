"""Checkpoints: damage, other runs, and when they are written."""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.encoders.pocket_clip import pocket_clip
from instructbrush.core.errors import LearningError, StorageError
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
from instructbrush.tests.unit.learning.checkpoint_files import change
from instructbrush.tests.unit.storage.mapped_files import assert_not_mapped

SMALL = replace(POCKET, steps=6, tokens=2, segments=2)


@pytest.fixture
def make(editor: DiffusersEditor) -> Callable[..., Trainer]:
    """Makes a small run."""
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
        ({"stream.1.position": torch.tensor(501)}, r"segment 1: its order is not a pass over its timesteps"),
        (
            {"stream.1.order": torch.zeros(500, dtype=torch.int64)},
            r"segment 1: its order is not a pass over its timesteps",
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
def test_names_a_damaged_checkpoint_and_changes_nothing(
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
        match=rf"^Checkpoint '\.snow\.checkpoint' is damaged: .*{message}\. Remove it to start again\.$",
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
def test_rejects_checkpoints_of_other_runs_and_programs(
    make: Callable[..., Trainer], kept: Path, metadata: dict[str, str], message: str
) -> None:
    change(kept, {}, metadata)
    with pytest.raises(LearningError, match=message):
        load_checkpoint(make(), kept)
    assert find_checkpoint(make(), kept.parent, ".*.checkpoint", 6) is None


def test_survives_any_wrong_byte_in_a_checkpoint(make: Callable[..., Trainer], kept: Path) -> None:
    whole, trainer = kept.read_bytes(), make()
    draw = torch.Generator().manual_seed(0)
    places = torch.randint(len(whole), (60,), generator=draw).tolist() + list(range(0, 200, 5))
    for place in places:
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            load_checkpoint(trainer, kept)
        except LearningError as error:
            assert str(error).endswith("Remove it to start again.")
    for length in (0, 7, 8, 100, len(whole) - 1):
        kept.write_bytes(whole[:length])
        with pytest.raises(LearningError, match="cannot be read"):
            load_checkpoint(trainer, kept)


def test_resumes_with_more_steps_and_other_previews(make: Callable[..., Trainer], kept: Path) -> None:
    longer = make(replace(SMALL, steps=8, text_scale=3.0, image_scale=1.0))
    load_checkpoint(longer, kept)
    longer.run()
    assert longer.steps_done == 8 and longer.instruction().info.settings["steps"] == 8
    whole = make()
    whole.run()
    # Steps before the checkpoint keep their rates; the steps after it have those of the longer run.
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
def test_names_what_differs_from_the_run_of_a_checkpoint(
    make: Callable[..., Trainer], kept: Path, settings: LearningSettings, words: str, message: str
) -> None:
    with pytest.raises(LearningError, match=rf"belongs to another run: {message}"):
        load_checkpoint(make(settings, words), kept)


def test_accepts_seeds_of_64_bits_only() -> None:
    with pytest.raises(LearningError, match=r"seed is -1; it must lie between 0 and 18446744073709551615"):
        replace(SMALL, seed=-1)
    with pytest.raises(LearningError, match=r"seed is 18446744073709551616"):
        replace(SMALL, seed=2**64)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_writes_checkpoints_as_often_as_their_cost_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    cost = 0.01
    saved: list[float] = []
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


def test_tells_once_that_checkpoints_fail_and_once_that_they_work_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    messages: list[str] = []
    errors = [StorageError("Full."), StorageError("Full."), StorageError("Gone."), None, None]
    monkeypatch.setattr(checkpoints, "time", clock)

    def save() -> None:
        error = errors.pop(0)
        if error is not None:
            raise error

    schedule = CheckpointSchedule(save, messages.append)
    while errors:
        clock.now += 10
        schedule.save_if_due()
    rest = "Learning continues; what it learns is only in memory for now."
    assert messages == [f"Full. {rest}", f"Gone. {rest}", "The checkpoint can be written again."]


def test_leaves_nothing_of_a_file_that_cannot_be_written(
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


def test_works_without_caches_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    clip = pocket_clip("cpu")
    phrases, features = list_features(clip, "pocket", tmp_path / "file")
    assert len(phrases) == len(features)
    store = StateStore(tmp_path / "file", most_memory=0)
    for key in ("a", "b"):
        store.put(key, torch.ones(1, 2))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2, "once for each cache"
    assert re.search(
        r"cannot be written to .*file: .* The features of its phrases are computed again\.", messages[0]
    )
    assert re.search(
        r"States of an MLLM could not be kept in .*file .*; they are computed again\.", messages[1]
    )


@pytest.mark.parametrize(
    "steps", [torch.tensor(float("inf")), torch.tensor(float("nan")), torch.zeros(2), None]
)
def test_ignores_a_checkpoint_without_a_number_of_steps(
    make: Callable[..., Trainer], kept: Path, steps: Tensor | None
) -> None:
    change(kept, {"steps_done": steps})
    assert find_checkpoint(make(), kept.parent, ".*.checkpoint", 6) is None


def test_resumed_run_can_replace_its_checkpoint(make: Callable[..., Trainer], kept: Path) -> None:
    trainer = make()
    load_checkpoint(trainer, kept)
    assert trainer.steps_done == 3
    assert_not_mapped(kept)
