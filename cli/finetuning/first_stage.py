"""The first stage of ``reason train``: options, and the run that trains the connector alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.editing.editor import DiffusersEditor
from ...core.errors import LearningError
from ...core.finetuning.dataset import Block, digest_of, find_blocks
from ...core.finetuning.reasoning.first_stage import (
    MeaningInputs,
    MeaningLoss,
    MeaningStream,
    check_meanings,
)
from ...core.finetuning.reasoning.pair_states import PairStates
from ...core.finetuning.settings import FineTuningSettings
from ...core.finetuning.trainer import FineTuning
from ...core.reasoning.connector import Connector
from ..options import Several
from .options import RunFolder, check_probability
from .run import train_first_stage

if TYPE_CHECKING:
    from accelerate import Accelerator

_WARMUP = 100
_AVERAGE_DECAY = 0.998
_BETA2 = 0.99
# The last learning rate, as a share of the first.
_FINAL_SHARE = 0.03


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the first stage."""
    parser.add_argument(
        "--first-stage-steps",
        type=int,
        default=0,
        metavar="N",
        help="steps in which the connector alone learns to reproduce the text states of direct instructions, "
        "before the editor is trained with it (default 0: no first stage, as the paper; 3000 for a new "
        "connector and few steps)",
    )
    parser.add_argument(
        "--first-stage-data",
        action=Several,
        metavar="DIR",
        help="pairs with both kinds of instruction for the first stage (default: --data)",
    )
    parser.add_argument(
        "--first-stage-batch",
        type=int,
        default=64,
        metavar="N",
        help="samples that a process handles at once in the first stage (default 64)",
    )
    parser.add_argument(
        "--first-stage-rate",
        type=float,
        default=1e-3,
        metavar="RATE",
        help="learning rate of the first stage, which falls to 3 %% along a cosine (default 0.001)",
    )
    parser.add_argument(
        "--first-stage-direct",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="probability of a direct instruction in the first stage if a pair has both kinds (default 0.25)",
    )
    parser.add_argument(
        "--meaning-weight",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="weight of the first stage's loss beside the editor's afterwards (default 0)",
    )


class FirstStage:
    """The first stage of a run, as its options describe it.

    Args:
        options: all options of ``reason train``.
        settings: settings of the run that follows.
        blocks: the data of that run.

    Raises:
        LearningError: an option is invalid, or no pair has both kinds of instruction.
        PairError, DataError: the data cannot be used.
    """

    def __init__(
        self, options: argparse.Namespace, settings: FineTuningSettings, blocks: Sequence[Block]
    ) -> None:
        check_probability(options, "first_stage_direct")
        if options.first_stage_steps < 0 or not options.meaning_weight >= 0:
            raise LearningError(
                "Fine-tuning: --first-stage-steps and --meaning-weight must be 0 or more; they are "
                f"{options.first_stage_steps} and {options.meaning_weight}."
            )
        self._options = options
        self.blocks: tuple[Block, ...] = ()
        """Data of the first stage; empty if there is none."""
        self._settings: FineTuningSettings | None = None
        if not options.first_stage_steps:
            return
        self._settings = FineTuningSettings(
            steps=options.first_stage_steps,
            batch=options.first_stage_batch,
            accumulation=settings.accumulation,
            learning_rate=options.first_stage_rate,
            final_rate=_FINAL_SHARE * options.first_stage_rate,
            warmup=_WARMUP,
            beta2=_BETA2,
            average_decay=_AVERAGE_DECAY,
            seed=settings.seed,
            threads=settings.threads,
        )
        places = options.first_stage_data
        self.blocks = find_blocks([Path(place) for place in places], options.strict) if places else ()
        self.blocks = self.blocks or tuple(blocks)
        check_meanings(self.blocks)

    @property
    def reads_both_kinds(self) -> bool:
        """Whether states of direct and of indirect instructions are needed, whatever ``--indirect`` is."""
        return self._settings is not None

    def identity(self, processes: int) -> dict[str, Any]:
        """Returns what a checkpoint of the run that follows must agree with. Defaults are left out."""
        identity: dict[str, Any] = {}
        if self._options.meaning_weight:
            identity["meaning weight"] = self._options.meaning_weight
        if self._settings is not None:
            identity["first stage"] = {
                **self._settings.identity(),
                "data": digest_of(self.blocks),
                "samples of a step": self._settings.batch * self._settings.accumulation * processes,
                "direct": self._options.first_stage_direct,
            }
        return identity

    def train(
        self,
        accelerator: Accelerator,
        editor: DiffusersEditor,
        connector: Connector,
        states: PairStates,
        identity: dict[str, Any],
    ) -> dict[str, int]:
        """Trains the connector, unless the run that follows has begun.

        Args:
            accelerator: accelerator of both runs.
            editor: its text encoder is used.
            connector: on the accelerator's device; afterwards it has its averaged weights.
            states: states of all pairs of ``blocks`` with both kinds of instruction.
            identity: identity of the models.

        Returns:
            Pairs that were skipped, see ``PairStream.skipped``.
        """
        options = self._options
        if self._settings is None or (options.resume and RunFolder(options.out).checkpoint.exists()):
            return {}
        stream = MeaningStream(self.blocks, self._settings.seed, options.first_stage_direct, states)
        run = FineTuning(
            accelerator,
            MeaningLoss(connector),
            MeaningInputs(editor),
            stream,
            self._settings,
            {**identity, "stage": "first", "direct": options.first_stage_direct},
        )
        train_first_stage(run, options)
        return stream.skipped
