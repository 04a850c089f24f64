"""Runs fine-tuning to its end: checkpoints, log, sample images, interrupts and the final model."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...core.devices import is_out_of_memory
from ...core.errors import InstructBrushError, PairError, StorageError
from ...core.finetuning.trainer import FineTuning
from ...core.learning.checkpoint import keep_checkpoint, load_checkpoint, save_checkpoint
from ...core.storage.files import check_writable, write_elsewhere, write_text
from ...core.storage.json_text import parse_json
from ..interrupts import deferred_interrupts
from ..terminal import say
from .options import RunFolder

# Size of a checkpoint and a model, in sizes of the weights: with their average and AdamW's two moments.
_COPIES = 5


def train_to_end(
    run: FineTuning,
    options: argparse.Namespace,
    draw_samples: Callable[[Path], None] | None,
    save_result: Callable[[Path], object],
) -> None:
    """Trains to the last step. The main process writes log, checkpoints, sample images and the result.

    Args:
        run: a new run; ``--resume`` loads its checkpoint.
        options: see ``add_run_options``.
        draw_samples: draws sample images into a file. The model has its averaged weights then. None draws
            none.
        save_result: writes the result into a folder at the end. The model has its averaged weights then.

    Raises:
        LearningError: the checkpoint is damaged or belongs to another run, or the loss is not finite.
        StorageError: there is no room for a checkpoint, or the model cannot be written. Then it is written
            elsewhere, and the message says where.
        PairError: pairs were skipped and the run is strict, or no pair can be used.
    """
    folder = RunFolder(options.out)
    with run.distributed():
        _Session(run, options, folder.checkpoint, folder.log).train(draw_samples)
        if run.accelerator.is_main_process:
            with run.averaged():
                _save_result(folder.model, save_result)
            print(f"{folder.model}: {run.steps_done} steps")
        _report_skipped(run, options.strict)


def train_first_stage(run: FineTuning, options: argparse.Namespace) -> None:
    """Trains a run that another one follows in the same folder, and leaves the model its averaged weights.

    Raises:
        LearningError, StorageError, PairError: see ``train_to_end``.
    """
    folder = RunFolder(options.out)
    with run.distributed(last=False):
        _Session(run, options, folder.first_checkpoint, folder.first_log).train(None, last=False)
        run.use_average()


class _Session:
    """A run with its checkpoint, log and progress bar."""

    def __init__(self, run: FineTuning, options: argparse.Namespace, checkpoint: Path, log: Path) -> None:
        self._checkpoint = checkpoint
        self._run = run
        self._options = options
        self._is_main = run.accelerator.is_main_process
        self._log: _Log | None = None
        self._warnings: set[str] = set()
        if options.resume and checkpoint.exists():
            load_checkpoint(run, checkpoint, "Choose another --out to start a new run.")
        if self._is_main:
            self._log = _Log(log, run)
            weights = sum(parameter.nbytes for parameter in run.parameters.values())
            check_writable(checkpoint, _COPIES * weights)
            say(f"{len(run.stream)} pairs, {run.samples_of_step} a step, from step {run.steps_done}")

    def train(self, draw_samples: Callable[[Path], None] | None, last: bool = True) -> None:
        """Trains to the last step. Whatever ends it earlier is raised again, after a checkpoint is saved.

        Args:
            draw_samples: see ``train_to_end``.
            last: no run follows, so an interrupt in the last step ends nothing.
        """
        run = self._run
        steps = run.settings.steps
        with (
            tqdm(
                total=steps, initial=run.steps_done, desc="tuning", unit="step", disable=not self._is_main
            ) as bar,
            deferred_interrupts() as raise_interrupt,
        ):

            def after_step() -> None:
                bar.update()
                if self._is_due(self._options.log_every):
                    self._log_loss(bar)
                if self._is_main and self._is_due(self._options.save_every):
                    self._try_write(save_checkpoint, run, self._checkpoint)
                if self._is_main and draw_samples is not None and self._options.pictures_every:
                    self._draw_if_due(draw_samples)
                if run.steps_done != steps or not last:
                    raise_interrupt()

            try:
                run.run(after_step)
            except BaseException:
                if self._is_main and run.steps_done and run.is_finite():
                    problem = keep_checkpoint(run, self._checkpoint)
                    say(problem or f"stopped at step {run.steps_done}; continue with --resume")
                raise

    def _is_due(self, interval: int) -> bool:
        done = self._run.steps_done
        return done % interval == 0 or done == self._run.settings.steps

    def _log_loss(self, bar: Any) -> None:
        loss = self._run.mean_loss()  # Every process must call it.
        if self._log is not None:
            self._try_write(self._log.add, loss)
            bar.set_postfix(loss=f"{loss:.4f}")

    def _draw_if_due(self, draw_samples: Callable[[Path], None]) -> None:
        if self._is_due(self._options.pictures_every):
            with self._run.averaged():
                file = RunFolder(self._options.out).sample_image(self._run.steps_done)
                try:
                    draw_samples(file)
                except Exception as error:
                    # Whatever is wrong with a picture, the model can be trained.
                    if not isinstance(error, (InstructBrushError, OSError)) and not is_out_of_memory(error):
                        raise
                    self._warn(f"{error} No sample images are drawn.")

    def _try_write(self, write: Callable[..., object], *arguments: Any) -> None:
        """Writes a file. If that fails, says so once, and training continues."""
        try:
            write(*arguments)
        except (StorageError, OSError) as error:
            self._warn(str(error))

    def _warn(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.add(text)
            say(f"{text} Training continues.")


class _Log:
    """The file ``log.jsonl``. When a run resumes, lines after its checkpoint are removed."""

    def __init__(self, path: Path, run: FineTuning) -> None:
        self._path = path
        self._run = run
        self._start = time.monotonic()
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_text("".join(line for line in lines if _step_of(line) <= run.steps_done), path)

    def add(self, loss: float) -> None:
        """Adds a line about the last step."""
        done = self._run.steps_done
        line = {
            "step": done,
            "loss": loss,
            "rate": self._run.settings.rate_at(done - 1),
            "seconds": round(time.monotonic() - self._start, 1),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _step_of(line: str) -> float:
    """Returns the step of a log line, or infinity if the line is damaged."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf


def _save_result(folder: Path, save: Callable[[Path], object]) -> None:
    try:
        save(folder)
    except (StorageError, OSError) as error:
        kept = write_elsewhere(folder.name, save)
        if kept:
            hint = f"The model was kept in {kept}."
        else:
            hint = "Free some space and continue with --resume: the last checkpoint is enough."
        raise StorageError(f"{error} {hint}") from error


def _report_skipped(run: FineTuning, strict: bool) -> None:
    """Says how many pairs all processes skipped.

    Raises:
        PairError: pairs were skipped and the run is strict.
    """
    from accelerate.utils import gather_object

    skipped = {name: pairs for part in gather_object([run.stream.skipped]) for name, pairs in part.items()}
    if skipped and run.accelerator.is_main_process:
        summary = (
            f"{sum(skipped.values())} of {len(run.stream)} pairs could not be used and were skipped; the "
            "lines above say why"
        )
        if strict:
            raise PairError(f"Fine-tuning: {summary}. The model is kept.")
        say(summary)
