"""Trains a connector and an editor together on direct and indirect instructions (ReasonPix2Pix).

Loss and dropout are InstructPix2Pix's. A sample without text gets the text states of "" and skips the
connector, like the null branches of Eq. 3. A sample without image has zero latents but keeps its words and
the MLLM's states: these belong to the instruction, although they were computed from an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..editing.editor import DiffusersEditor
from ..reasoning.connector import Connector
from ..reasoning.state_cache import padded
from .dataset import Block
from .objective import DenoisingLoss, EditInputs
from .pair_states import PairStates
from .stream import EditStream, Sample
from .text_selection import TextSelection
from .training_pairs import PairRecord

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@dataclass(frozen=True)
class ConnectorSample(Sample):
    """A sample with the MLLM's states."""

    states: Tensor
    """[L, D], from the whole source image with the sample's words."""


class ConnectorStream(EditStream):
    """Pairs in the order of ``EditStream``, each with one of its texts and that text's states.

    Images are never flipped: words such as "the one on the left" would become wrong, and states are computed
    from the unflipped image.

    Args:
        blocks, side, seed: see ``EditStream``.
        texts: which texts are drawn. A sample's index decides its text, as it decides its crop.
        states: states of every pair with every text.
    """

    def __init__(
        self, blocks: Sequence[Block], side: int, seed: int, texts: TextSelection, states: PairStates
    ) -> None:
        super().__init__(blocks, side, seed, flip=0.0)
        self._texts = texts
        self._states = states

    def sample(self, index: int, record: PairRecord) -> ConnectorSample:
        """See ``EditStream.sample``.

        Raises:
            LearningError: the states of the pair are missing.
        """
        words = self._texts.draw(record, np.random.default_rng((self._seed, index, 4)))
        sample = super().sample(index, replace(record, words=words))
        return ConnectorSample(**vars(sample), states=self._states.of(record, words))


class ConnectorLoss(nn.Module):
    """``DenoisingLoss`` on text states that pass through the connector. Both modules are trained."""

    def __init__(self, unet: UNet2DConditionModel, connector: Connector) -> None:
        super().__init__()
        self.connector = connector
        self.denoising = DenoisingLoss(unet)

    def forward(self, without_text: Tensor, states: Tensor, mask: Tensor, **denoising: Tensor) -> Tensor:
        """Returns the error of each sample, fp32 [B].

        Args:
            without_text: bool [B]: these samples skip the connector.
            states: the MLLM's states [B, S, D].
            mask: bool [B, S], true for real states, false for padding.
            denoising: arguments of ``DenoisingLoss.forward``. ``context`` holds the text states of "" for
                samples without text.
        """
        context = denoising["context"]
        with_states = self.connector(context, states, mask)
        denoising["context"] = torch.where(without_text[:, None, None], context, with_states)
        return self.denoising(**denoising)


class ConnectorInputs:
    """Turns samples into the arguments of ``ConnectorLoss``.

    Args:
        editor, seed, dropout: see ``EditInputs``.
    """

    def __init__(self, editor: DiffusersEditor, seed: int, dropout: float) -> None:
        self._edit_inputs = EditInputs(editor, seed, dropout)
        self._device = editor.device

    def __call__(self, samples: Sequence[ConnectorSample]) -> dict[str, Tensor]:
        """Returns the arguments of ``ConnectorLoss.forward``."""
        arguments, draws = self._edit_inputs.with_draws(samples)
        states, mask = padded([sample.states for sample in samples])
        return {
            **arguments,
            "without_text": draws.without_text,
            "states": states.to(self._device),
            "mask": mask.to(self._device),
        }
