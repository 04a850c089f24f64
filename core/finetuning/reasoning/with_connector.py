"""Trains a connector and an editor together on direct and indirect instructions (ReasonPix2Pix).

Loss and dropout are InstructPix2Pix's. A sample without text gets the text states of "" and skips the
connector, like the null branches of Eq. 3. A sample without image has zero latents but keeps its words and
the MLLM's states: these belong to the instruction, although they were computed from an image.

The first stage's loss can be added, so that the connector does not forget what it learned there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ...reasoning.connector import Connector
from ...reasoning.state_cache import padded
from ..dataset import Block
from ..objective import DenoisingLoss, EditInputs
from ..stream import EditStream, Sample
from ..training_pairs import PairRecord
from .first_stage import meaning_error
from .pair_states import PairStates
from .text_selection import TextSelection

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@dataclass(frozen=True)
class ConnectorSample(Sample):
    """A sample with the MLLM's states."""

    states: Tensor
    """[L, D], from the whole source image with the sample's words."""
    meant: str = ""
    """The pair's direct instruction, or "" if it has none."""


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
        states = self._states.of(record, words)
        return ConnectorSample(**vars(sample), states=states, meant=record.words.strip())


class ConnectorLoss(nn.Module):
    """``DenoisingLoss`` on text states that pass through the connector. Both modules are trained."""

    def __init__(self, unet: UNet2DConditionModel, connector: Connector) -> None:
        super().__init__()
        self.connector = connector
        self.denoising = DenoisingLoss(unet)

    def forward(
        self,
        without_text: Tensor,
        states: Tensor,
        mask: Tensor,
        meant: Tensor | None = None,
        meaning_weight: Tensor | None = None,
        **denoising: Tensor,
    ) -> Tensor:
        """Returns the error of each sample, fp32 [B].

        Args:
            without_text: bool [B]: these samples skip the connector.
            states: the MLLM's states [B, S, D].
            mask: bool [B, S], true for real states, false for padding.
            meant: text states of the direct instructions [B, L, W].
            meaning_weight: weight of ``meaning_error`` beside the denoising error [B]. None leaves it out.
            denoising: arguments of ``DenoisingLoss.forward``. ``context`` holds the text states of "" for
                samples without text.
        """
        context = denoising["context"]
        with_states = self.connector(context, states, mask)
        denoising["context"] = torch.where(without_text[:, None, None], context, with_states)
        error = self.denoising(**denoising)
        if meant is None or meaning_weight is None:
            return error
        return error + meaning_weight * meaning_error(with_states, meant, self.connector.config.queries)


class ConnectorInputs:
    """Turns samples into the arguments of ``ConnectorLoss``.

    Args:
        edit_inputs: makes the arguments of ``DenoisingLoss``.
        meaning_weight: weight of the first stage's loss. It acts on samples whose text is not dropped and
            whose pair has a direct instruction. 0 leaves it out.
    """

    def __init__(self, edit_inputs: EditInputs, meaning_weight: float = 0.0) -> None:
        self._edit_inputs = edit_inputs
        self._meaning_weight = meaning_weight

    def __call__(self, samples: Sequence[ConnectorSample]) -> dict[str, Tensor]:
        """Returns the arguments of ``ConnectorLoss.forward``."""
        editor = self._edit_inputs.editor
        denoising, draws = self._edit_inputs.with_draws(samples)
        without_text = draws.without_text
        states, mask = padded([sample.states for sample in samples])
        arguments = {
            **denoising,
            "without_text": without_text,
            "states": states.to(editor.device),
            "mask": mask.to(editor.device),
        }
        if self._meaning_weight:
            has_meaning = torch.tensor([bool(sample.meant) for sample in samples], device=editor.device)
            arguments["meant"] = editor.encode_text([sample.meant for sample in samples])
            arguments["meaning_weight"] = self._meaning_weight * (has_meaning & ~without_text).float()
        return arguments
