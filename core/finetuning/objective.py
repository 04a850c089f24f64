"""InstructPix2Pix's training loss: random draws, the UNet's inputs, and the error of its prediction."""

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
    """The random draws of a batch."""

    timesteps: Tensor
    """int64 [B], 0..999."""
    noise: Tensor
    """Standard normal, shaped like the latents."""
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
    """Draws timesteps, noise and dropout. An index always gives the same draws, in any batch and process.

    Args:
        indices: indices of the samples in the order, [B].
        shape: shape of one latent.
        seed: seed of the run.
        dropout: share of samples without text, share without image, and share without both (each;
            InstructPix2Pix: 0.05).
        device: device of the tensors.
    """
    rngs = [np.random.default_rng((seed, index, 3)) for index in indices]
    timesteps = torch.tensor([int(rng.integers(TRAIN_TIMESTEPS)) for rng in rngs], device=device)
    chance = torch.tensor([rng.random() for rng in rngs], device=device)
    noise = torch.stack(
        [torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32)) for rng in rngs]
    ).to(device)
    return Draws(timesteps, noise, chance < 2 * dropout, (chance >= dropout) & (chance < 3 * dropout))


def target_of(latents: Tensor, draws: Draws, alphas_cumprod: Tensor, prediction: str) -> Tensor:
    """Returns the prediction target: the noise e, or v = sqrt(abar) e - sqrt(1 - abar) z.

    Args:
        latents: clean, scaled latents z [B, 4, h, w].
        draws: timesteps and noise.
        alphas_cumprod: abar [1000].
        prediction: ``"epsilon"`` or ``"v_prediction"``.
    """
    if prediction == "epsilon":
        return draws.noise
    abar = alphas_cumprod[draws.timesteps].view(-1, 1, 1, 1)
    return abar.sqrt() * draws.noise - (1 - abar).sqrt() * latents


def min_snr_weights(timesteps: Tensor, alphas_cumprod: Tensor, prediction: str, limit: float) -> Tensor:
    """Returns the loss weight of each sample [B] as in Min-SNR (Hang et al., 2023).

    With SNR = abar / (1 - abar), the weight is min(SNR, limit) / SNR for a predicted e, and
    min(SNR, limit) / (SNR + 1) for a predicted v.

    Args:
        timesteps: [B].
        alphas_cumprod: abar [1000].
        prediction: see ``target_of``.
        limit: largest weight of the error of the clean latents; the paper takes 5.
    """
    abar = alphas_cumprod[timesteps]
    snr = abar / (1 - abar)
    kept = torch.clamp(snr, max=limit)
    # A schedule that ends at abar = 0 has no signal there: the error of e says nothing then.
    return kept / (snr.clamp(min=1e-8) if prediction == "epsilon" else snr + 1)


class DenoisingLoss(nn.Module):
    """The UNet's mean squared error on noisy latents.

    The UNet is a submodule, so that DistributedDataParallel reduces its gradients.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        context: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Returns the error of each sample, fp32 [B].

        Args:
            noisy: [B, 4, h, w].
            timesteps: [B].
            condition: latents of the image, followed by those of its mask if the model reads one,
                [B, C, h, w].
            context: text states [B, L, D].
            target: [B, 4, h, w].
            weight: weight of each sample's error [B]; None weights all alike.
        """
        predicted: Any = self.unet(
            torch.cat([noisy, condition], dim=1), timesteps, context, return_dict=False
        )[0]
        error = (predicted.float() - target).square().mean((1, 2, 3))
        return error if weight is None else error * weight


class EditInputs:
    """Turns samples into the arguments of ``DenoisingLoss``: encodes, adds noise, drops text and image.

    Args:
        editor: its VAE and text encoder are used, its UNet is not.
        seed: seed of the run.
        dropout: see ``draw``.
        snr_limit: see ``min_snr_weights``. None weights all timesteps alike.
    """

    def __init__(
        self, editor: DiffusersEditor, seed: int, dropout: float, snr_limit: float | None = None
    ) -> None:
        self.editor = editor
        self._seed = seed
        self._dropout = dropout
        self._snr_limit = snr_limit
        self._null = editor.encode_text([""])

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Returns the arguments of ``DenoisingLoss.forward``."""
        return self.with_draws(samples)[0]

    @torch.no_grad()
    def with_draws(self, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], Draws]:
        """Returns the arguments of ``DenoisingLoss.forward`` and the draws behind them."""
        editor = self.editor
        abar = editor.denoiser.alphas_cumprod
        prediction = editor.description.family.prediction
        latents = editor.scale(editor.encode_images(torch.stack([sample.after for sample in samples])))
        masks = torch.stack([sample.mask for sample in samples]) if editor.description.reads_mask else None
        condition = editor.condition(torch.stack([sample.before for sample in samples]), masks)
        indices = [sample.index for sample in samples]
        draws = draw(indices, latents.shape[1:], self._seed, self._dropout, latents.device)
        words = editor.encode_text([sample.words for sample in samples])
        arguments = {
            "noisy": add_noise(latents, draws.noise, draws.timesteps, abar),
            "timesteps": draws.timesteps,
            "condition": torch.where(draws.without_image[:, None, None, None], 0.0, condition),
            "context": torch.where(draws.without_text[:, None, None], self._null, words),
            "target": target_of(latents, draws, abar, prediction),
        }
        if self._snr_limit is not None:
            arguments["weight"] = min_snr_weights(draws.timesteps, abar, prediction, self._snr_limit)
        return arguments, draws
