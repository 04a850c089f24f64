"""The protocol that every engine implements: predict noise, and project text states to keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..models.families import ModelDescription

if TYPE_CHECKING:
    from ..instruction.injection import AnyInjection


class Denoiser(Protocol):
    """A frozen InstructPix2Pix model."""

    description: ModelDescription
    device: torch.device
    dtype: torch.dtype
    """What the model computes in."""
    alphas_cumprod: Tensor
    """abar, [1000] fp32 on ``device``."""

    @property
    def checkpointing(self) -> bool:
        """Whether blocks recompute their activations in the backward pass, which saves memory."""
        ...

    @checkpointing.setter
    def checkpointing(self, enabled: bool) -> None: ...

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        image_latent: Tensor,
        context: Tensor,
        injection: AnyInjection | None = None,
    ) -> Tensor:
        """Predicts the noise in latents.

        Args:
            noisy: ``sqrt(abar_t) z + sqrt(1 - abar_t) e``, [B, 4, h, w].
            timesteps: [B], 0..999, int64, or float as samplers use them.
            image_latent: image condition [B, C, h, w], where C is ``description.condition_channels``. The
                unscaled latent of the image, followed by that of the mask if the model reads one. Zeros mean
                no image and no mask.
            context: text states [B, L, D].
            injection: learned keys and values, for all rows or for groups of rows.

        Returns:
            Predicted noise, fp32 [B, 4, h, w], whatever the model itself predicts. Differentiable in the
            injection's tensors; the model's weights never get gradients.
        """
        ...

    def project(self, context: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Computes the model's own keys and values of text states.

        Args:
            context: [L, D].

        Returns:
            Site name -> (``to_k context``, ``to_v context``), each fp32 [L, width], without gradients.
        """
        ...
