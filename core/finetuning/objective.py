"""InstructPix2Pix's training loss: what is drawn for each sample, and the error of the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.schedule import TRAIN_TIMESTEPS, add_noise
from ..editing.editor import DiffusersEditor
from .stream import Sample

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@dataclass(frozen=True)
class Draws:
    """What is random about a batch, beside its order and crops."""

    timesteps: Tensor
    """int64 [B], 0..999."""
    noise: Tensor
    """Standard normal, of the latents' shape."""
    without_text: Tensor
    """bool [B]: the instruction becomes "" here."""
    without_image: Tensor
    """bool [B]: image and mask become zeros here."""


def draw(
    indices: Sequence[int],
    shape: Sequence[int],
    seed: int,
    dropout: float,
    device: torch.device | str = "cpu",
) -> Draws:
    """Draw for the samples at these places of the order; each place always gives the same, in whatever batch and process it is.

    Args:
        indices: places of the order, [B].
        shape: of one latent.
        seed: of the run.
        dropout: share of samples without text, of samples without image, and of samples without both, each (InstructPix2Pix: 0.05).
        device: where the tensors shall be.
    """
    rngs = [np.random.default_rng((seed, index, 3)) for index in indices]
    timesteps = torch.tensor([int(rng.integers(TRAIN_TIMESTEPS)) for rng in rngs], device=device)
    chance = torch.tensor([rng.random() for rng in rngs], device=device)
    noise = torch.stack(
        [torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32)) for rng in rngs]
    ).to(device)
    return Draws(timesteps, noise, chance < 2 * dropout, (chance >= dropout) & (chance < 3 * dropout))


def target_of(latents: Tensor, draws: Draws, alphas_cumprod: Tensor, prediction: str) -> Tensor:
    """What the model shall predict: the noise, or v = sqrt(abar) e - sqrt(1 - abar) z.

    Args:
        latents: clean and scaled [B, 4, h, w].
        draws: timesteps and noise.
        alphas_cumprod: [1000].
        prediction: ``"epsilon"`` or ``"v_prediction"``.
    """
    if prediction == "epsilon":
        return draws.noise
    abar = alphas_cumprod[draws.timesteps].view(-1, 1, 1, 1)
    return abar.sqrt() * draws.noise - (1 - abar).sqrt() * latents


class DenoisingError(nn.Module):
    """A UNet's mean squared error on noisy latents. What is trained is inside, so that the gradients of several processes meet."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, noisy: Tensor, timesteps: Tensor, condition: Tensor, context: Tensor, target: Tensor
    ) -> Tensor:
        """The error of each sample, fp32 [B].

        Args:
            noisy: [B, 4, h, w].
            timesteps: [B].
            condition: latents of the image and of its mask [B, C, h, w].
            context: text states [B, L, D].
            target: [B, 4, h, w].
        """
        predicted: Any = self.unet(
            torch.cat([noisy, condition], dim=1), timesteps, context, return_dict=False
        )[0]
        return (predicted.float() - target).square().mean((1, 2, 3))


class EditInputs:
    """Samples as what :class:`DenoisingError` takes: encoded by the editor's frozen parts, noised, and without text or image where that is drawn.

    Args:
        editor: its UNet is not used.
        seed: of the run.
        dropout: see :func:`draw`.
    """

    def __init__(self, editor: DiffusersEditor, seed: int, dropout: float) -> None:
        self._editor, self._seed, self._dropout = editor, seed, dropout
        self._null = editor.encode_text([""])

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """The arguments of :meth:`DenoisingError.forward`."""
        return self.drawn(samples)[0]

    @torch.no_grad()
    def drawn(self, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], Draws]:
        """The arguments, and what was drawn for them."""
        editor, abar = self._editor, self._editor.denoiser.alphas_cumprod
        latents = editor.scale(editor.encode_images(torch.stack([sample.after for sample in samples])))
        masks = torch.stack([sample.mask for sample in samples]) if editor.description.reads_mask else None
        condition = editor.condition(torch.stack([sample.before for sample in samples]), masks)
        draws = draw(
            [sample.index for sample in samples], latents.shape[1:], self._seed, self._dropout, latents.device
        )
        context = torch.where(
            draws.without_text[:, None, None],
            self._null,
            editor.encode_text([sample.words for sample in samples]),
        )
        arguments = {
            "noisy": add_noise(latents, draws.noise, draws.timesteps, abar),
            "timesteps": draws.timesteps,
            "condition": torch.where(draws.without_image[:, None, None, None], 0.0, condition),
            "context": context,
            "target": target_of(latents, draws, abar, editor.description.family.prediction),
        }
        return arguments, draws
