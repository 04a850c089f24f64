"""The training loop on the pocket editor: learning, exact resume, averages, and process groups."""

import importlib
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from instructbrush.core.errors import LearningError
from instructbrush.core.finetuning.objective import DenoisingLoss
from instructbrush.core.finetuning.settings import FineTuningSettings
from instructbrush.core.finetuning.trainer import FineTuning
from instructbrush.core.learning.checkpoint import load_checkpoint, save_checkpoint
from instructbrush.tests.support.tuning import assert_equal, weights

MakeRun = Callable[..., FineTuning]


@pytest.mark.slow
def test_training_lowers_the_error(make_run: MakeRun, small_settings: FineTuningSettings) -> None:
    settings = replace(
        small_settings, steps=20, accumulation=1, batch=4, learning_rate=5e-4, average_decay=0.0
    )
    run = make_run(settings)
    unseen = [run.stream.sample(index, run.stream.record(index)) for index in range(1000, 1016)]

    def error() -> float:
        with torch.no_grad():
            return float(run.objective(**run.inputs(unseen)).mean())

    before = error()
    run.run()
    assert error() < 0.85 * before
    assert run.parameters["unet.conv_in.weight"][:, 8:].any(), "the mask's channels learn"


def test_resumed_run_equals_uninterrupted_run(
    make_run: MakeRun, small_settings: FineTuningSettings, tmp_path: Path
) -> None:
    whole = make_run()
    whole.run()
    stopped = make_run(replace(small_settings, steps=2))
    stopped.run()
    save_checkpoint(stopped, tmp_path / "run.safetensors")
    resumed = make_run()
    load_checkpoint(resumed, tmp_path / "run.safetensors")
    assert resumed.steps_done == 2
    resumed.run()
    assert resumed.mean_loss() > 0
    assert_equal(weights(whole), weights(resumed))


def test_checkpoint_fits_only_the_same_run(
    make_run: MakeRun, small_settings: FineTuningSettings, tmp_path: Path
) -> None:
    save_checkpoint(make_run(), tmp_path / "run.safetensors")
    message = r"belongs to another run: learning_rate \(0\.0003 there, 0\.001 here\) differs"
    with pytest.raises(LearningError, match=message):
        load_checkpoint(make_run(replace(small_settings, learning_rate=1e-3)), tmp_path / "run.safetensors")
    # The same samples make a step, in batches of another size.
    load_checkpoint(make_run(replace(small_settings, batch=1, accumulation=4)), tmp_path / "run.safetensors")


def test_resume_restores_the_fp16_loss_scale(make_run: MakeRun) -> None:
    first = make_run()
    second = make_run()
    first.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    second.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    second.load_state(first.state())
    assert second.accelerator.scaler.state_dict() == first.accelerator.scaler.state_dict()
    unscaled = {name: tensor for name, tensor in first.state().items() if not name.startswith("scaler.")}
    with pytest.raises(ValueError, match=r"tensor 'scaler\._growth_tracker' is missing"):
        second.load_state(unscaled)


def test_gradient_checkpointing_does_not_change_the_result(
    make_run: MakeRun, small_settings: FineTuningSettings
) -> None:
    settings = replace(small_settings, steps=1, accumulation=1)
    plain = make_run(settings)
    plain.run()
    checkpointed = make_run(settings, checkpointing=True)
    checkpointed.run()
    for name, tensor in plain.parameters.items():
        torch.testing.assert_close(tensor, checkpointed.parameters[name], rtol=0, atol=1e-6, msg=name)


def test_averaged_weights_are_temporary(make_run: MakeRun, small_settings: FineTuningSettings) -> None:
    run = make_run(replace(small_settings, steps=2))
    run.run()
    trained = weights(run)
    name = "unet.conv_out.weight"
    with run.averaged():
        assert torch.equal(run.parameters[name], trained[f"average.{name}"])
        assert not torch.equal(run.parameters[name], trained[f"parameter.{name}"])
    assert_equal(weights(run), trained)


def test_infinite_loss_ends_the_run(make_run: MakeRun, small_settings: FineTuningSettings) -> None:
    settings = replace(small_settings, steps=2, accumulation=1, learning_rate=1e30, warmup=0, clip_norm=1e30)
    run = make_run(settings)
    run.run()
    message = (
        r"^Fine-tuning: the loss was not finite before step 2\. Lower --rate \(1e\+30\), or use "
        r"--precision bf16\."
    )
    with pytest.raises(LearningError, match=message):
        run.mean_loss()


def test_checkpoints_of_older_runs_still_fit() -> None:
    """They name no setting that was added since."""
    assert FineTuningSettings().identity() == {
        "learning_rate": 1e-4,
        "warmup": 0,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "average_decay": 0.9999,
        "dropout": 0.05,
        "seed": 0,
    }


def test_rate_falls_along_a_cosine_to_its_last_value() -> None:
    settings = FineTuningSettings(steps=100, learning_rate=1e-3, final_rate=1e-5, warmup=10)
    assert settings.rate_at(4) == pytest.approx(0.5e-3, rel=0.01)
    assert settings.rate_at(50) == pytest.approx((1e-3 + 1e-5) / 2)
    assert settings.rate_at(100) == pytest.approx(1e-5)
    assert replace(settings, final_rate=None).rate_at(99) == 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"final_rate": 0.0}, "final_rate is 0.0; it must be more than 0"),
        ({"beta2": 1.0}, "beta2 is 1.0; it must be at least 0 and below 1"),
        ({"snr_limit": -5.0}, "snr_limit is -5.0; it must be more than 0"),
        ({"batch": 0}, "batch is 0; it must be more than 0"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"average_decay": 1.0}, "average_decay is 1.0; it must be at least 0 and below 1"),
        ({"dropout": 0.5}, "dropout is 0.5; it must be from 0 to 1/3"),
    ],
)
def test_rejects_invalid_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LearningError, match=message):
        FineTuningSettings(**changes)


@pytest.fixture
def distributed_run(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FineTuning]:
    """A run as it is with several processes: wrapped in DDP, in a process group of one."""
    monkeypatch.delitem(sys.modules, "torch.distributed.nn.functional", raising=False)
    run = make_run()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    vars(run.accelerator.state)["backend"] = "gloo"
    importlib.import_module("torch.distributed.nn.functional")  # As DDP does in a new process.
    run.objective = DistributedDataParallel(run.objective)
    yield run
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def freed(distributed_run: FineTuning) -> list[str]:
    """Names of the objects of a process group in the order in which they are freed."""
    names: list[str] = []
    weakref.finalize(distributed_run.objective.reducer, names.append, "reducer")
    weakref.finalize(torch.distributed.group.WORLD, names.append, "group")
    return names


def test_frees_the_reducer_before_the_group(distributed_run: FineTuning, freed: list[str]) -> None:
    with distributed_run.distributed():
        distributed_run.step()
    assert freed == ["reducer", "group"]


def test_frees_the_reducer_before_the_group_after_an_error(
    distributed_run: FineTuning, freed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DenoisingLoss, "forward", lambda *_, **__: [].pop())
    with pytest.raises(IndexError) as failure, distributed_run.distributed():
        distributed_run.step()
    assert any(frame.name == "forward" for frame in failure.traceback), "the traceback holds the wrapper"
    assert freed == ["reducer", "group"]
