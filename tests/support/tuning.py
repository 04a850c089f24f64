"""Helpers of the fine-tuning tests: accelerate on the CPU, several processes, and comparing runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from instructbrush.core.finetuning.trainer import FineTuning


def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes accelerate use the CPU. Resets it afterwards, because it sets its device once in a process."""
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    AcceleratorState._reset_state(True)


def weights(run: FineTuning) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run.state().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


def assert_no_pickles(folder: Path) -> None:
    """Checks that a folder has no pickled weights and no unfinished files."""
    suffixes = (".pt", ".bin", ".pkl", ".pth", ".part")
    assert [path for path in folder.rglob("*") if path.suffix in suffixes] == []


def run_in_two_processes(arguments: Sequence[str]) -> None:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "instructbrush",
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    with subprocess.Popen(
        launch, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as launcher:
        try:
            _, errors = launcher.communicate(timeout=280)
        except subprocess.TimeoutExpired:
            first = psutil.Process(launcher.pid)
            for process in (*first.children(recursive=True), first):
                process.send_signal(signal.SIGABRT)  # It prints the stacks of its threads.
            _, errors = launcher.communicate()
            pytest.fail(f"two processes hang:\n{errors[-20000:]}")
    assert launcher.returncode == 0, errors[-3000:]


def assert_same_gradients(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """Compares AdamW's mean gradients and the weights of two checkpoints."""
    means = {name: tensor for name, tensor in one.items() if name.startswith("optimiser.exp_avg.")}
    # Gradients that are zero up to rounding, such as that of a key's bias, have no relative error.
    floor = 1e-8 * max(float(tensor.abs().max()) for tensor in means.values())
    for name, tensor in means.items():
        torch.testing.assert_close(
            two[name], tensor, rtol=1e-4, atol=1e-4 * float(tensor.abs().max()) + floor, msg=name
        )
    for name, tensor in one.items():
        if name.startswith("parameter.") and not name.endswith("to_k.bias"):
            assert (two[name] - tensor).norm() <= 1e-4 * tensor.norm(), name
