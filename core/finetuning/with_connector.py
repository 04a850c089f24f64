"""Training a connector and an editor together, on direct and indirect instructions (ReasonPix2Pix): InstructPix2Pix's loss and dropout.

What is dropped: without text a sample has the text states of "" alone, which never pass through the connector, as Eq. 3's null branches have. Without
image its latents are zero and its words stay as they are, the MLLM's states with them: these belong to the instruction, although an image made them.
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
from .dataset import Block, Row
from .objective import DenoisingError, EditInputs
from .pair_states import PairStates, Texts
from .stream import EditStream, Sample

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@dataclass(frozen=True)
class ReasonedSample(Sample):
    """A sample with what an MLLM makes of it."""

    states: Tensor
    """[L, D], of the whole source image with the sample's words."""


class ReasonedStream(EditStream):
    """Pairs in the order of :class:`~.stream.EditStream`, each with one of its texts and that text's states.

    Left and right never change places: words such as "the one on the left" would become wrong, and states are those of the image as it is.

    Args:
        blocks, side, seed: see there.
        texts: which texts are drawn. Which one follows from the sample's place, as its crop does.
        states: of every pair with every text.
    """

    def __init__(
        self, blocks: Sequence[Block], side: int, seed: int, texts: Texts, states: PairStates
    ) -> None:
        super().__init__(blocks, side, seed, flip=0.0)
        self._texts, self._states = texts, states

    def sample(self, index: int, row: Row) -> ReasonedSample:
        """See :meth:`~.stream.EditStream.sample`.

        Raises:
            LearningError: there are no states of the pair.
        """
        words = self._texts.draw(row, np.random.default_rng((self._seed, index, 4)))
        sample = super().sample(index, replace(row, words=words))
        return ReasonedSample(**vars(sample), states=self._states.of(row, words))


class ReasonedError(nn.Module):
    """The error of the UNet on text states that passed through the connector. Both are trained."""

    def __init__(self, unet: UNet2DConditionModel, connector: Connector) -> None:
        super().__init__()
        self.connector, self.denoising = connector, DenoisingError(unet)

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        context: Tensor,
        target: Tensor,
        without_text: Tensor,
        states: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """The error of each sample, fp32 [B].

        Args:
            noisy, timesteps, condition, target: see :class:`~.objective.DenoisingError`.
            context: text states [B, L, W], those of "" where ``without_text``.
            without_text: bool [B]: the connector is passed by here.
            states: the MLLM's [B, S, D].
            mask: bool [B, S], true where there are states.
        """
        reasoned = torch.where(without_text[:, None, None], context, self.connector(context, states, mask))
        return self.denoising(noisy, timesteps, condition, reasoned, target)


class ReasonedInputs:
    """Samples as what :class:`ReasonedError` takes.

    Args:
        editor, seed, dropout: see :class:`~.objective.EditInputs`.
    """

    def __init__(self, editor: DiffusersEditor, seed: int, dropout: float) -> None:
        self._edit, self._device = EditInputs(editor, seed, dropout), editor.device

    def __call__(self, samples: Sequence[ReasonedSample]) -> dict[str, Tensor]:
        """The arguments of :meth:`ReasonedError.forward`."""
        arguments, draws = self._edit.drawn(samples)
        states, mask = padded([sample.states for sample in samples])
        return {
            **arguments,
            "without_text": draws.without_text,
            "states": states.to(self._device),
            "mask": mask.to(self._device),
        }
