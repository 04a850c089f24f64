"""Runs a learning request, with callbacks for progress and checkpoints."""

from contextlib import AbstractContextManager, nullcontext

from ..errors import WorthlessError
from ..instruction.instruction import Instruction
from .request import LearningRequest
from .trainer import Trainer


class RunCallbacks:
    """What a caller adds to a run. Every method does nothing unless a subclass overrides it."""

    def before_steps(self, trainer: Trainer) -> None:
        """Called once, before the first step. Resumes from a checkpoint; may raise to refuse the run."""

    def surroundings(self, trainer: Trainer) -> AbstractContextManager[object]:
        """Encloses the steps and the end of the run: a progress bar, signal handlers."""
        return nullcontext()

    def after_step(self, trainer: Trainer, done: int, total: int) -> None:
        """Called after every step, for progress, previews and checkpoints. May raise to stop the run."""

    def discard(self, trainer: Trainer) -> None:
        """Called when the result is worthless. Removes checkpoints, which must not be resumed from."""

    def keep(self, trainer: Trainer, error: BaseException) -> None:
        """Called when anything else stops the run. Saves a checkpoint; ``error`` is raised afterwards."""


def learn(request: LearningRequest, callbacks: RunCallbacks | None = None) -> Instruction:
    """Learns an instruction.

    Args:
        request: what to learn from, and how.
        callbacks: called on the way.

    Raises:
        WorthlessError: the result is not finite, or nothing changed.
        LearningError: the images are too large for the device's memory.
    """
    callbacks = callbacks or RunCallbacks()
    trainer = Trainer(request)
    callbacks.before_steps(trainer)
    with callbacks.surroundings(trainer):
        try:
            trainer.run(lambda done, total: callbacks.after_step(trainer, done, total))
            return trainer.instruction(request.title)
        except WorthlessError:
            callbacks.discard(trainer)
            raise
        except BaseException as error:
            callbacks.keep(trainer, error)
            raise
