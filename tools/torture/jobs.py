"""Jobs that the trials disturb: their input, their work, and checks of their files during and after it."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from instructbrush.core.errors import InstructBrushError
from instructbrush.core.evaluation.by_instruction.results import ItemFolder
from instructbrush.core.instruction.file import load_instruction, save_instruction

REPO = Path(__file__).resolve().parents[2]
PAIRS = REPO / "example_workflows" / "pairs" / "hours_passed"
LIGHT = REPO / "example_workflows" / "pairs" / "light_from_the_right"
INSTRUCTION = REPO / "example_workflows" / "models" / "instructions" / "plum_and_mint.safetensors"
_LEARNING_STEPS = 250
_BRIEF_STEPS = 12
_TUNING_STEPS = 12
_SAVES = 200
# How much wider the larger of two saved instructions is.
_WIDER = 20

_processes = multiprocessing.get_context("forkserver")
# Children are forks of a process that has imported everything, so they start fast.
_processes.set_forkserver_preload(
    [
        "instructbrush.cli.main",
        "diffusers.models.unets.unet_2d_condition",
        "transformers",
        "accelerate",
        __name__,
    ]
)


@dataclass(frozen=True)
class Job:
    """A kind of work. It reads from a ``data`` folder, which is written once, and writes to ``folder``."""

    seconds: float
    """Approximate duration."""
    prepare: Callable[[Path], object]
    """Writes the data."""
    work: Callable[[Path, Path], int]
    """(data, folder) -> exit code. Started again in the same folder, it continues."""
    done: Callable[[Path], int]
    """Measures how much of the work is finished in a folder, at any moment. Raises if a file is damaged."""
    result: Callable[[Path], Any]
    """Returns the result of finished work, to be compared."""


@dataclass(frozen=True)
class End:
    """How a process ended that was not killed."""

    code: int
    """Exit code."""
    output: str
    """Text on stdout and stderr."""
    escaped: str
    """Traceback of an exception that the command did not handle; empty if there was none."""


class JobProcess:
    """A running job in a child process.

    Args:
        name: a key of ``JOBS``.
        data, folder: see ``Job``.
        setup: a function and its argument; called first in the process.
    """

    def __init__(
        self, name: str, data: Path, folder: Path, setup: tuple[Callable[[Any], object], Any] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._end, child_end = _processes.Pipe(duplex=False)
        self.process: BaseProcess = _processes.Process(
            target=_run_job, args=(name, data, folder, setup, child_end)
        )
        self.process.start()
        child_end.close()

    def ends_within(self, seconds: float) -> bool:
        """Waits at most ``seconds``. Returns whether the process has ended."""
        self.process.join(seconds)
        return self.process.exitcode is not None

    def kill(self) -> None:
        """Kills the process without a chance to clean up."""
        self.process.kill()
        self.process.join()

    def wait_for_end(self, seconds: float = 300) -> End:
        """Waits for the end. A hang counts as escaped."""
        if self._end.poll(seconds):
            with contextlib.suppress(EOFError):
                return self._end.recv()
        self.kill()
        return End(-1, "", f"it did not end within {seconds:.0f} s, or it crashed")


def run_undisturbed(name: str, place: Path) -> tuple[Path, Any]:
    """Writes the data of a job below ``place`` and runs it once. Returns the data's folder and the result."""
    job = JOBS[name]
    data = place / "data"
    folder = place / "undisturbed"
    data.mkdir(parents=True)
    job.prepare(data)
    end = JobProcess(name, data, folder).wait_for_end()
    assert end.code == 0, f"{name} fails undisturbed: {end.output}\n{end.escaped}"
    return data, job.result(folder)


def _run_job(
    name: str, data: Path, folder: Path, setup: tuple[Callable[[Any], object], Any] | None, end: Connection
) -> None:
    """Runs a job in the child process and sends its end to the parent."""
    torch.set_num_threads(1)
    code = 1
    escaped = ""
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        try:
            if setup is not None:
                setup[0](setup[1])
            code = JOBS[name].work(data, folder)
        except InstructBrushError as error:
            output.write(f"instructbrush: {error}")
        except BaseException:  # Any exception that the command did not handle has escaped.
            escaped = traceback.format_exc()
    end.send(End(code, output.getvalue(), escaped))


def _command(*arguments: object) -> int:
    from instructbrush.cli.main import main

    return main([str(argument) for argument in arguments])


def _learn(data: Path, folder: Path, steps: int = _LEARNING_STEPS) -> int:
    options = ("--pairs", PAIRS, "--size", 64, "--steps", steps, "--overwrite", "--device", "cpu")
    return _command("learn", "--begin", "words", *options, "--out", folder / "x.safetensors")


def _learn_briefly(data: Path, folder: Path) -> int:
    from instructbrush.cli import learn

    # A short run writes checkpoints, too.
    learn.CHECKPOINT_SECONDS = 0
    return _learn(data, folder, _BRIEF_STEPS)


def _steps_learned(folder: Path) -> int:
    if (folder / "x.safetensors").exists():
        load_instruction(folder / "x.safetensors")
        return _LEARNING_STEPS
    return _steps_of(folder / ".x.checkpoint")


def _steps_of(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, "pt") as file:
        return int(file.get_tensor("steps_done"))


def _learned(folder: Path) -> Any:
    instruction: Any = load_instruction(folder / "x.safetensors")
    return {name: tensor.tolist() for name, tensor in instruction.learned().items()}


def _save(data: Path, folder: Path) -> int:
    small: Any = load_instruction(INSTRUCTION)
    keys = {name: tensor.repeat(1, 1, _WIDER) for name, tensor in small.keys.items()}
    values = {name: tensor.repeat(1, 1, _WIDER) for name, tensor in small.values.items()}
    large = replace(small, keys=keys, values=values)
    for number in range(_SAVES):
        save_instruction((small, large)[number % 2], folder / "x.safetensors", overwrite=True)
    return 0


def _saved(folder: Path) -> int:
    if not (folder / "x.safetensors").exists():
        return 0
    load_instruction(folder / "x.safetensors")
    return 1


def _bench(data: Path, folder: Path) -> int:
    options = ("--sampling-steps", 2, "--size", 64, "--device", "cpu", "--out", folder / "out")
    return _command("bench", "--benchmark", "reason", "--methods", "words", "--data", data, *options)


def _measured(folder: Path) -> int:
    for frame in folder.rglob("*.png"):
        with Image.open(frame) as image:
            image.load()
    return len(ItemFolder(folder / "out").finished())


def _scores(folder: Path) -> Any:
    found = ItemFolder(folder / "out").finished()
    return {key: repr(replace(score, seconds=0.0)) for key, score in found.items()}


def _listed(file: str) -> Callable[[Path], None]:
    """Returns a writer of copies of example pairs and a list of them with words."""

    def write(data: Path) -> None:
        entries = []
        for before in sorted(LIGHT.glob("*_0.png")):
            after = before.with_name(before.name.replace("_0", "_1"))
            for image in (before, after):
                shutil.copy(image, data)
            words = {"words": "light it from the right", "reasoning": "the lamp stands on the right"}
            entries.append({"before": before.name, "after": after.name, **words})
        (data / file).write_text(json.dumps(entries))

    return write


def _tune(data: Path, folder: Path) -> int:
    out = folder / "run"
    resume = ["--resume"] if (out / "checkpoint.safetensors").exists() else []
    task = ("--model", "pocket", "--data", data, "--out", out, "--steps", _TUNING_STEPS)
    training = ("--resolution", 64, "--batch", 1, "--precision", "no")
    output = ("--save-every", 2, "--log-every", 1, "--pictures-every", 4)
    return _command("train-region", *task, *training, *output, *resume)


def _tuned(folder: Path) -> Any:
    (file,) = (folder / "run" / "model" / "unet").glob("*.safetensors")
    return {name: tensor.double().sum().item() for name, tensor in load_file(file).items()}


def _edit(data: Path, folder: Path) -> int:
    # One by one: the batch size affects rounding, and a resumed run has other batches.
    options = ("--steps", 2, "--device", "cpu", "--batch", 1)
    return _command(
        "edit", "--words", "make it night", "--images", data / "images", "--out", folder / "out", *options
    )


def _images(data: Path) -> None:
    (data / "images").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            data / "images" / f"{number}.png"
        )


def _edited(folder: Path) -> Any:
    return {
        path.name: np.asarray(Image.open(path)).tobytes() for path in sorted((folder / "out").glob("*.png"))
    }


def _nothing(data: Path) -> None:
    pass


JOBS = {
    "learn": Job(25, _nothing, _learn, _steps_learned, _learned),
    "learn briefly": Job(4, _nothing, _learn_briefly, _steps_learned, _learned),
    "save": Job(4, _nothing, _save, _saved, _saved),
    "bench": Job(12, _listed("reason.json"), _bench, _measured, _scores),
    "train": Job(
        15,
        _listed("pairs.json"),
        _tune,
        lambda folder: _steps_of(folder / "run" / "checkpoint.safetensors"),
        _tuned,
    ),
    "edit": Job(6, _images, _edit, lambda folder: len(_edited(folder)), _edited),
}
