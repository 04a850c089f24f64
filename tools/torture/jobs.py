"""Work that is disturbed: what it reads, what it does, what its files must be at any moment, and what they must be in the end."""

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
_LEARNING_STEPS, _BRIEF_STEPS, _TUNING_STEPS = 250, 12, 12
_SAVES = 200
_WIDER = 20

_processes = multiprocessing.get_context("forkserver")
# A child is a fork of a process that has imported everything and done nothing: it begins at once.
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
    """One kind of work. ``data`` is a folder for what it reads, made once; ``folder`` one for what it writes."""

    seconds: float
    """About how long it takes."""
    prepare: Callable[[Path], object]
    """Make the data."""
    work: Callable[[Path, Path], int]
    """(data, folder) -> exit code. Begun again in the same folder, it goes on."""
    done: Callable[[Path], int]
    """How much is finished in a folder, which may be any moment's; raises where a file is neither absent nor sound."""
    result: Callable[[Path], Any]
    """What finished work has left, to be compared."""


@dataclass(frozen=True)
class End:
    """How a process ended by itself."""

    code: int
    said: str
    escaped: str
    """The traceback of what came through; empty when nothing did."""


class Running:
    """Work that has begun, in a process of its own.

    Args:
        name: of ``JOBS``.
        data, folder: as in :class:`Job`.
        before: called first in that process, with its argument.
    """

    def __init__(
        self, name: str, data: Path, folder: Path, before: tuple[Callable[[Any], object], Any] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._end, there = _processes.Pipe(duplex=False)
        self.process: BaseProcess = _processes.Process(
            target=_carry_out, args=(name, data, folder, before, there)
        )
        self.process.start()
        there.close()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        self.process.join(seconds)
        return self.process.exitcode is not None

    def kill(self) -> None:
        """At once, without a chance to tidy up."""
        self.process.kill()
        self.process.join()

    def end(self, seconds: float = 300) -> End:
        """Wait for the end; a hang is an exception that escaped."""
        if self._end.poll(seconds):
            with contextlib.suppress(EOFError):
                return self._end.recv()
        self.kill()
        return End(-1, "", f"it did not end within {seconds:.0f} s, or without a word")


def undisturbed(name: str, place: Path) -> tuple[Path, Any]:
    """Make the data of a job below ``place`` and do the work once. Returns the folder with the data, and the result."""
    job, data, folder = JOBS[name], place / "data", place / "untouched"
    data.mkdir(parents=True)
    job.prepare(data)
    end = Running(name, data, folder).end()
    assert end.code == 0, f"{name} fails undisturbed: {end.said}\n{end.escaped}"
    return data, job.result(folder)


def _carry_out(
    name: str, data: Path, folder: Path, before: tuple[Callable[[Any], object], Any] | None, end: Connection
) -> None:
    torch.set_num_threads(1)
    code, escaped, said = 1, "", io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            if before is not None:
                before[0](before[1])
            code = JOBS[name].work(data, folder)
        except InstructBrushError as error:
            said.write(f"instructbrush: {error}")
        except BaseException:  # whatever comes through is what is looked for
            escaped = traceback.format_exc()
    end.send(End(code, said.getvalue(), escaped))


def _command(*arguments: object) -> int:
    from instructbrush.cli.main import main

    return main([str(argument) for argument in arguments])


def _learn(data: Path, folder: Path, steps: int = _LEARNING_STEPS) -> int:
    out = folder / "x.safetensors"
    return _command(
        "learn",
        "--pairs",
        PAIRS,
        "--size",
        64,
        "--steps",
        steps,
        "--out",
        out,
        "--overwrite",
        "--device",
        "cpu",
    )


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
    keys, values = (
        {name: tensor.repeat(1, 1, _WIDER) for name, tensor in part.items()}
        for part in (small.keys, small.values)
    )
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
    """Copies of example pairs, and a list of them with words."""

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
    going_on = ["--resume"] if (out / "checkpoint.safetensors").exists() else []
    fixed = (
        "--resolution",
        64,
        "--batch",
        1,
        "--precision",
        "no",
        "--save-every",
        2,
        "--log-every",
        1,
        "--pictures-every",
        4,
    )
    return _command(
        "train-region",
        "--model",
        "pocket",
        "--data",
        data,
        "--out",
        out,
        "--steps",
        _TUNING_STEPS,
        *fixed,
        *going_on,
    )


def _tuned(folder: Path) -> Any:
    (file,) = (folder / "run" / "model" / "unet").glob("*.safetensors")
    return {name: tensor.double().sum().item() for name, tensor in load_file(file).items()}


def _edit(data: Path, folder: Path) -> int:
    # One by one: batches of another size are rounded otherwise.
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
