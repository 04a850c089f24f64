"""The first stage: a connector learns to reproduce the text states of explicit instructions.

The editor takes no part. From an indirect instruction and its image, the connector predicts the text states
of the direct instruction that asks for the same edit. From a direct instruction it predicts its own text
states, so that these stay as they are. The editor understands such states already; with the editor's loss
alone, a new connector hardly changes in the first hundreds of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...editing.editor import DiffusersEditor
from ...errors import LearningError, PairError
from ...reasoning.connector import Connector
from ...reasoning.state_cache import padded
from ..dataset import Block
from ..stream import PairStream
from ..training_pairs import PairRecord
from .pair_states import PairStates


@dataclass(frozen=True)
class MeaningSample:
    """An instruction, and the direct instruction that it means."""

    words: str
    """A direct or an indirect instruction."""
    states: Tensor
    """The MLLM's states of the whole source image with ``words`` [L, D]."""
    meant: str
    """The direct instruction; ``words`` themselves if they are one."""


class MeaningStream(PairStream[MeaningSample]):
    """Pairs in the order of ``PairStream``, each with one of its instructions. Decodes no image.

    Pairs without a direct instruction are passed over. Pairs that have only a direct one show it.

    Args:
        blocks, seed: see ``PairStream``.
        direct: probability of the direct instruction if a pair has both kinds.
        states: states of every pair with all of its instructions.
    """

    def __init__(self, blocks: Sequence[Block], seed: int, direct: float, states: PairStates) -> None:
        super().__init__(blocks, seed)
        self._direct = direct
        self._states = states

    def sample(self, index: int, record: PairRecord) -> MeaningSample:
        """See ``PairStream.sample``.

        Raises:
            LearningError: the pair's states are no longer in their folder.
        """
        if record.fault:
            raise PairError(record.fault)
        rng = np.random.default_rng((self._seed, index, 5))
        meant = record.words.strip()
        words = meant
        if record.reasoning and rng.random() >= self._direct:
            words = record.reasoning[int(rng.integers(len(record.reasoning)))]
        if not self._states.knows(record, words):
            raise PairError(
                f"Pair '{record.name}' has no states of the vision-language model: its images could not be "
                "used when these were computed."
            )
        return MeaningSample(words, self._states.of(record, words), meant)

    def _sample_or_none(self, index: int, record: PairRecord | None) -> MeaningSample | None:
        # A pair that is only indirect is nothing to warn about.
        if record is not None and not record.fault and not record.words.strip():
            return None
        return super()._sample_or_none(index, record)


def check_meanings(blocks: Sequence[Block]) -> None:
    """Checks that the data can train the first stage. Reads up to the first pair with both instructions.

    Raises:
        LearningError: no pair has a direct and an indirect instruction.
        DataError: a table is damaged.
    """
    records = (record for block in blocks for record in block.records())
    if not any(record.words.strip() and record.reasoning for record in records):
        raise LearningError(
            "Fine-tuning: the first stage learns from pairs with a direct and an indirect instruction, and "
            "the data has none. Add 'reasoning' beside 'words', give other data with --first-stage-data, or "
            "leave --first-stage-steps out."
        )


def meaning_error(states: Tensor, meant: Tensor, queries: int) -> Tensor:
    """Returns the mean squared error of each sample [B] between text states and those that are meant.

    Args:
        states: text states after the connector [B, L, W].
        meant: text states of the direct instructions [B, L, W].
        queries: rows that the connector changes; the others do not count.
    """
    return (states[:, :queries].float() - meant[:, :queries].float()).square().mean((1, 2))


class MeaningLoss(nn.Module):
    """The connector's error, without the editor."""

    def __init__(self, connector: Connector) -> None:
        super().__init__()
        self.connector = connector

    def forward(self, text: Tensor, states: Tensor, mask: Tensor, meant: Tensor) -> Tensor:
        """Returns the error of each sample, fp32 [B].

        Args:
            text: text states of the instructions [B, L, W].
            states: the MLLM's states [B, S, D].
            mask: bool [B, S], true for real states, false for padding.
            meant: text states of the direct instructions [B, L, W].
        """
        return meaning_error(self.connector(text, states, mask), meant, self.connector.config.queries)


class MeaningInputs:
    """Turns samples into the arguments of ``MeaningLoss``.

    Args:
        editor: its text encoder is used.
    """

    def __init__(self, editor: DiffusersEditor) -> None:
        self._editor = editor

    @torch.no_grad()
    def __call__(self, samples: Sequence[MeaningSample]) -> dict[str, Tensor]:
        """Returns the arguments of ``MeaningLoss.forward``."""
        states, mask = padded([sample.states for sample in samples])
        return {
            "text": self._editor.encode_text([sample.words for sample in samples]),
            "states": states.to(self._editor.device),
            "mask": mask.to(self._editor.device),
            "meant": self._editor.encode_text([sample.meant for sample in samples]),
        }
