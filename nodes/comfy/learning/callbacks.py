"""Progress, previews, checkpoints and buttons of one learning run."""

import logging
import math
from dataclasses import dataclass

from PIL import Image

from ....core.devices import is_out_of_memory
from ....core.instruction.instruction import Instruction, own_scales
from ....core.learning.checkpoint import CheckpointSchedule
from ....core.learning.run import EndEarly, HeldOutWatch, RunCallbacks
from ....core.learning.trainer import Trainer
from . import active
from .preview import PairPreview
from .progress import Interrupted, LearningProgress, Phase, check_interrupted
from .saved_steps import SavedSteps
from .unfinished import Kept, Unfinished


@dataclass(frozen=True)
class Display:
    """How often a run shows and saves its progress."""

    preview_every: int = 0
    """Steps between previews, 0 for none."""
    save_every: int = 0
    """Steps between instruction files, 0 for none."""
    resume: bool = True
    """Continue a stopped run of the same model, pairs, words and settings; its steps and previews may
    differ."""


class ShownRun(RunCallbacks):
    """What a learning node adds to a run.

    Args:
        display: how often it shows and saves its progress.
        progress: messages to the panel.
        preview: renders previews.
        image: thumbnail of instruction files.
        watch: measures the held-out pair, if there is one.
    """

    def __init__(
        self,
        display: Display,
        progress: LearningProgress,
        preview: PairPreview,
        image: Image.Image,
        watch: HeldOutWatch | None,
    ) -> None:
        self._display = display
        self._progress = progress
        self._preview = preview
        self._thumbnail = image
        self._watch = watch
        self._ending: Phase = "done"
        self._kept = Kept()

    def before_steps(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._files = Unfinished(trainer, self._thumbnail)
        self._steps = SavedSteps(trainer, self._thumbnail, self._progress.warn)
        remarks = trainer.request.remarks
        for remark in remarks:
            logging.info("InstructBrush: %s", remark)
        if self._display.resume:
            remarks.append(self._files.resume())
        self._progress.remark = " ".join(remark for remark in remarks if remark)
        self._progress.begin(trainer.steps_done)
        self._progress.enter("first")
        self._progress.show(trainer.steps_done, trainer.losses)
        self._measure()
        self._schedule = CheckpointSchedule(self._files.save_checkpoint, self._progress.warn)

    def after_step(self, trainer: Trainer, done: int, total: int) -> None:
        check_interrupted()
        if self._progress.phase == "first":
            self._progress.enter("learning")
        last = done == total
        every = self._display.preview_every
        image = None
        if every and (done % every == 0 or last):
            image = self._preview_if_it_fits()
        if self._watch is not None and self._watch.is_due(trainer):
            self._measure()
        if last or image is not None or self._progress.due():
            self._progress.show(done, trainer.losses, image)
            trainer.check_finite()
        if self._display.save_every and done % self._display.save_every == 0:
            self._steps.save()
        if not last:
            self._schedule.save_if_due()
        self._obey(done, total)

    def _obey(self, done: int, total: int) -> None:
        """Does what the user asked for with a button of the panel."""
        action = self._progress.take_request()
        if action == "later":
            raise Interrupted
        if action == "best" and self._watch is not None and self._watch.best is not None:
            self._end_early("best")
            self._watch.restore_best(self._trainer)
            step = self._trainer.steps_done
            raise EndEarly(f"least error on the held-out pair, step {step} of {done}")
        if action == "use" and done < total:
            self._end_early("used")
            raise EndEarly(f"stopped at step {done} of {total}")

    def _end_early(self, ending: Phase) -> None:
        """Keeps the run, so that it can be continued."""
        self._progress.show(self._trainer.steps_done, self._trainer.losses)
        self._kept = self._files.keep()
        self._ending = ending

    def _measure(self) -> None:
        """Measures the held-out pair; no more if memory runs out for it."""
        if self._watch is None:
            return
        try:
            self._watch.measure(self._trainer)
        except RuntimeError as error:
            _check_memory_error(error, "the held-out pair")
            self._watch = None
            self._progress.watches = False
        else:
            self._progress.held_out = [each for each in self._watch.errors if math.isfinite(each[1])]
            self._progress.watches = self._watch.best is not None

    def _preview_if_it_fits(self, own: tuple[float, float] | None = None) -> Image.Image | None:
        """A preview; None if memory runs out for it."""
        try:
            return self._preview.render(self._trainer, own)
        except RuntimeError as error:
            _check_memory_error(error, "a preview")
            return None

    def after_candidate(self, trainer: Trainer, done: int, total: int) -> None:
        check_interrupted()
        detail = f"{done} of {total}"
        if self._progress.phase == "guidance":
            self._progress.detail(detail)
        else:
            self._progress.enter("guidance", detail=detail)
        action = self._progress.take_request()
        if action == "later":
            raise Interrupted
        if action == "use":
            raise EndEarly

    def finish(self, instruction: Instruction) -> None:
        """Shows how the run ended, and the last preview with the instruction's own guidance scales. Removes
        the files of a complete run."""
        early = self._ending != "done"
        own = own_scales(instruction)
        if own is not None:
            self._progress.add_remark(f"Guidance scales: text {own[0]:g}, image {own[1]:g}.")
        image = None
        if self._display.preview_every and (early or own is not None):
            image = self._preview_if_it_fits(own)
        if image is not None:
            self._progress.add_preview(instruction.info.steps, image)
        if early:
            self._progress.add_remark(self._kept.problem)
            active.allow_learning_on(self._progress.node, self._progress.run)
        else:
            self._files.remove()
        self._progress.enter(self._ending)

    def discard(self, trainer: Trainer) -> None:
        self._files.remove()

    def keep(self, trainer: Trainer, error: BaseException) -> None:
        # A run that ended early is kept already, and may hold an earlier state by now.
        kept = self._kept if self._ending != "done" else self._files.keep()
        if kept.text:
            why = "cancelled" if isinstance(error, Interrupted) else "stopped"
            logging.warning("InstructBrush: %s at step %d. %s", why, trainer.steps_done, kept.text)
        self._progress.enter("stopped", kept.text)


def _check_memory_error(error: RuntimeError, what: str) -> None:
    """Raises every error but that memory ran out, which does not stop the run."""
    if not is_out_of_memory(error):
        raise error
    logging.warning("InstructBrush: memory ran out for %s; learning continues without it.", what)
