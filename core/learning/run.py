"""Runs a learning request, with callbacks for progress and checkpoints, and finds the guidance scales."""

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..devices import is_out_of_memory
from ..diffusion.guidance import needed_branches
from ..editing.scale_search import ScaleSearch, find_scales
from ..errors import WorthlessError
from ..instruction.file import check_size
from ..instruction.instruction import Instruction
from .objective import HELD_OUT_SAMPLES, PairLatents, held_out_error
from .request import LearningRequest
from .trainer import Trainer

logger = logging.getLogger(__name__)

# The search of scales costs at most this share of the learning steps.
_SEARCH_SHARE = 0.15
# A sample of learning costs as much as this many rows without a backward pass.
_ROWS_PER_SAMPLE = 3
# The error of the held-out pair costs at most this share of the learning steps.
_HELD_OUT_SHARE = 0.1


class EndEarly(Exception):  # noqa: N818
    """Raised by a callback to end a run: the instruction is what is learned so far.

    Args:
        ending: how the run ended, for the settings in the instruction's file, such as "stopped at step 57 of
            300".
    """


@dataclass(frozen=True)
class ScaleChoice:
    """Asks ``learn`` to find the guidance scales that suit the instruction, see ``find_scales``."""

    held_out: PairLatents | None = None
    """Pairs that are not learned from, to compare edits with; None takes the learned pairs, with new
    noise."""


def wants_scales(preset: str, guidance: str | None) -> bool:
    """Whether a run looks for guidance scales.

    Args:
        preset: its preset, as the user names it. A preset that is named after a paper keeps the paper's
            scales, so that its edits are the paper's.
        guidance: ``search`` or ``default`` if the user decides, else None.
    """
    return guidance == "search" if guidance else not preset.startswith("paper")


class HeldOutWatch:
    """The error of a pair that is not learned from, while learning, and the state where it was least.

    Args:
        latents: the pair.
        every: steps between two measurements; more if they would cost more than a tenth of the time.
    """

    def __init__(self, latents: PairLatents, every: int) -> None:
        self._latents = latents
        self._every = every
        self._least: dict[str, Tensor] = {}
        self.errors: list[tuple[int, float]] = []
        """(steps done, error) of every measurement."""
        self.best: tuple[int, float] | None = None
        """The one with the least error."""

    def is_due(self, trainer: Trainer) -> bool:
        """Whether it is time for a measurement."""
        every = self.every(trainer)
        return trainer.steps_done % every == 0 or trainer.steps_done >= trainer.settings.steps

    def every(self, trainer: Trainer) -> int:
        """Steps between two measurements: a multiple of what was asked for."""
        settings = trainer.settings
        null_rows = 0
        if settings.objective == "guided":
            needed = needed_branches(settings.image_scale, settings.text_scale)
            null_rows = needed.image + needed.none
        samples = len(trainer.request.trained_segments) * settings.batch
        step = samples * (_ROWS_PER_SAMPLE + null_rows)
        least = HELD_OUT_SAMPLES * (1 + null_rows) / (_HELD_OUT_SHARE * step)
        return self._every * math.ceil(least / self._every)

    def measure(self, trainer: Trainer) -> None:
        """Measures now, and keeps a copy of the state in CPU memory if it is the best. Waits for the
        device."""
        contexts = (trainer.context, trainer.null_context)
        with torch.no_grad():
            error = held_out_error(
                trainer.denoiser, self._latents, 0, contexts, trainer.injection(), trainer.settings
            )
        self.errors.append((trainer.steps_done, error))
        # The state before the first step is no result.
        worth = trainer.steps_done > 0 and math.isfinite(error)
        if worth and (self.best is None or error < self.best[1]):
            self.best = self.errors[-1]
            self._least = {
                name: tensor.detach().to("cpu", copy=True) for name, tensor in trainer.parameters.items()
            }

    def restore_best(self, trainer: Trainer) -> None:
        """Gives the trainer the best state, for its instruction. The run cannot be continued then."""
        if self.best is not None:
            trainer.go_back(self._least, self.best[0])


class RunCallbacks:
    """What a caller adds to a run. Every method does nothing unless a subclass overrides it."""

    def before_steps(self, trainer: Trainer) -> None:
        """Called once, before the first step. Resumes from a checkpoint; may raise to refuse the run."""

    def surroundings(self, trainer: Trainer) -> AbstractContextManager[object]:
        """Encloses the steps and the end of the run: a progress bar, signal handlers."""
        return nullcontext()

    def after_step(self, trainer: Trainer, done: int, total: int) -> None:
        """Called after every step, for progress, previews and checkpoints. May raise to stop the run, or
        ``EndEarly`` to end it."""

    def after_candidate(self, trainer: Trainer, done: int, total: int) -> None:
        """Called after every pair of guidance scales that is tried, once the steps are done. May raise to
        stop the run, which then resumes here, or ``EndEarly`` to end it without scales."""

    def discard(self, trainer: Trainer) -> None:
        """Called when the result is worthless. Removes checkpoints, which must not be resumed from."""

    def keep(self, trainer: Trainer, error: BaseException) -> None:
        """Called when anything else stops the run. Saves a checkpoint; ``error`` is raised afterwards."""


def learn(
    request: LearningRequest, callbacks: RunCallbacks | None = None, scales: ScaleChoice | None = None
) -> Instruction:
    """Learns an instruction.

    Args:
        request: what to learn from, and how.
        callbacks: called on the way.
        scales: find the guidance scales that suit the instruction; None leaves them to the model's default. A
            run too short for a search of at most 15 % of its time, or without memory for it, leaves them,
            too.

    Raises:
        WorthlessError: the result is not finite, or nothing changed.
        LearningError: the images are too large for the device's memory.
        InstructionError: no file could hold the instruction.
    """
    callbacks = callbacks or RunCallbacks()
    trainer = Trainer(request)
    check_size(trainer.file_size())
    callbacks.before_steps(trainer)
    with callbacks.surroundings(trainer):
        try:
            try:
                trainer.run(lambda done, total: callbacks.after_step(trainer, done, total))
            except EndEarly as end:
                trainer.ending = str(end)
            instruction = trainer.instruction(request.title)
            return instruction if scales is None else _with_scales(instruction, trainer, scales, callbacks)
        except WorthlessError:
            callbacks.discard(trainer)
            raise
        except BaseException as error:
            callbacks.keep(trainer, error)
            raise


def _with_scales(
    instruction: Instruction, trainer: Trainer, scales: ScaleChoice, callbacks: RunCallbacks
) -> Instruction:
    settings = trainer.settings
    samples = trainer.steps_done * len(trainer.request.trained_segments) * settings.batch
    family = trainer.denoiser.description.family
    search = ScaleSearch.within(_SEARCH_SHARE * _ROWS_PER_SAMPLE * samples, family, settings.seed)
    if search is None:
        return instruction
    latents = scales.held_out or trainer.latents
    try:
        found = find_scales(
            trainer.denoiser,
            list(zip(latents.before, latents.after, strict=True)),
            (trainer.context, trainer.null_context),
            trainer.injection(),
            search,
            lambda done, total: callbacks.after_candidate(trainer, done, total),
            latents.masks,
        )
    except EndEarly:
        return instruction
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("Memory ran out while guidance scales were tried; the model's default is kept.")
        return instruction
    info = replace(instruction.info, text_scale=found.text_scale, image_scale=found.image_scale)
    return replace(instruction, info=info)
