"""What learning minimises: the noise prediction error of Eq. 5, on the instructed branch or on the guided prediction."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..devices import to_device
from ..diffusion.guidance import dual_guidance
from ..diffusion.schedule import add_noise
from ..editing.denoiser import Denoiser
from ..encoders.clip import ClipModel, image_features
from ..errors import PairError
from ..instruction.injection import Injection
from ..pairs.pairs import EditPairs
from .settings import LearningSettings


@dataclass(frozen=True)
class PairLatents:
    """Pairs as latents, encoded once. Pairs may differ in size."""

    before: Sequence[Tensor]
    """Image conditions, N x [C, h, w], as the model wants them (InstructPix2Pix: mode of the VAE, unscaled; with a mask's after it where it reads one)."""
    after: Sequence[Tensor]
    """Targets, N x [4, h, w], scaled by the VAE's scaling factor."""
    digest: str = ""
    """What tells these pairs from others; of the images when they were encoded here, since an encoder on a GPU need not repeat itself."""

    def __post_init__(self) -> None:
        if (
            not self.before
            or len(self.before) != len(self.after)
            or any(x.shape[1:] != y.shape[1:] for x, y in zip(self.before, self.after, strict=True))
        ):
            raise PairError(
                "Pair latents: before and after must be equally many, at least one, and of equal size within a pair."
            )

    @classmethod
    def encode(
        cls,
        pairs: EditPairs,
        encode_image: Callable[[Tensor], Tensor],
        scale: Callable[[Tensor], Tensor],
        condition: Callable[[Tensor], Tensor] | None = None,
    ) -> "PairLatents":
        """Encode every image once.

        Args:
            pairs: the pairs.
            encode_image: [1, H, W, 3] in 0..1 -> latent [1, 4, h, w].
            scale: latent -> target latent.
            condition: [1, H, W, 3] in 0..1 -> image condition [1, C, h, w], where that is more than the latent.
        """
        with torch.no_grad():
            before = [(condition or encode_image)(pair.before[None])[0].float() for pair in pairs]
            after = [scale(encode_image(pair.after[None]))[0].float() for pair in pairs]
        digest = hashlib.sha256()
        for pair in pairs:
            digest.update(pair.before.cpu().contiguous().numpy().tobytes())
            digest.update(pair.after.cpu().contiguous().numpy().tobytes())
        return cls(before, after, digest.hexdigest())


class Samples(NamedTuple):
    """Training samples of one size, on the denoiser's device: row i of each field belongs together."""

    before: Tensor
    """Image conditions [n, C, h, w]."""
    after: Tensor
    """Targets [n, 4, h, w]."""
    noise: Tensor
    """[n, 4, h, w]."""
    timesteps: Tensor
    """int64 [n]."""

    def chunks(self, rows: int) -> "list[Samples]":
        """The same, at most so many rows at once."""
        return [Samples(*parts) for parts in zip(*(tensor.split(rows) for tensor in self), strict=True)]


@dataclass(frozen=True)
class Direction:
    """How the images of a set of pairs differ, in the space that a CLIP model shares between images and words (Visii)."""

    projection: Tensor
    """The CLIP model's projection of text states, [D, P]."""
    target: Tensor
    """Mean features of the images after, less those before, [P]."""

    @classmethod
    def between(cls, before: Tensor, after: Tensor, projection: Tensor) -> "Direction":
        """From image features [N, P] each and the projection [D, P]."""
        return cls(projection.float(), after.float().mean(0) - before.float().mean(0))

    @classmethod
    @torch.no_grad()
    def of(cls, pairs: EditPairs, clip: ClipModel) -> "Direction":
        """Of a set of pairs, as a CLIP model sees them: between the means of normalised features."""
        before, after = (
            image_features(clip, [getattr(pair, side) for pair in pairs]) for side in ("before", "after")
        )
        return cls.between(before, after, clip.text_projection.detach())

    def to(self, device: torch.device) -> "Direction":
        """The same on another device."""
        return Direction(self.projection.to(device), self.target.to(device))

    def loss(self, states: Tensor, clamp: bool = False) -> Tensor:
        """``1 - cos(projection(mean of the states), target)`` for text states [B, L, D], shape [B].

        Args:
            states: whole windows of text states.
            clamp: cut the cosine off at 0.5 first.
        """
        cosine = functional.cosine_similarity(
            states.float().mean(1) @ self.projection, self.target[None], dim=1
        )
        return 1 - (cosine.clamp(-1, 0.5) if clamp else cosine)


def snr_weights(alphas_cumprod: Tensor) -> Tensor:
    """Weights of the timesteps, [1000], mean 1: ``min(SNR, 5) / SNR * sqrt(1 + 1 / SNR)``.

    Min-SNR damps the low-noise steps, where the input is copied; the second factor adds weight where noise is high, since errors there show as a
    drift of colour. The paper weighs all alike.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = snr.clamp(max=5) / snr * (1 + 1 / snr).sqrt()
    return weights / weights.mean()


def collect(
    latents: PairLatents, drawn: Sequence[tuple[int, int, Tensor]], device: torch.device
) -> list[Samples]:
    """Drawn (pair, timestep, noise on the CPU) as samples on the device, a batch for every size of image."""
    groups: dict[tuple[int, ...], list[tuple[int, int, Tensor]]] = {}
    for each in drawn:
        groups.setdefault(tuple(latents.after[each[0]].shape), []).append(each)
    return [
        Samples(
            torch.stack([latents.before[pair] for pair, _, _ in group]),
            torch.stack([latents.after[pair] for pair, _, _ in group]),
            to_device(torch.stack([noise for _, _, noise in group]), device),
            to_device(torch.tensor([timestep for _, timestep, _ in group]), device),
        )
        for _, group in sorted(groups.items())
    ]


def noise_errors(
    denoiser: Denoiser,
    samples: Samples,
    context: Tensor,
    null_context: Tensor,
    injection: Injection,
    settings: LearningSettings,
) -> Tensor:
    """The loss of every sample, [n] fp32, differentiable in the injection's tensors.

    ``plain`` (Eq. 5): ``mean (e(z_t, I, T) - e)^2``. ``guided``: the same with ``e`` replaced by Eq. 3's combination of three branches, of which
    only the instructed one needs a gradient. Losses of other samples never mix, so a batch of one sample a segment equals training the segments in turn.

    Args:
        denoiser: the frozen model.
        samples: what to train on.
        context, null_context: text states of the init phrase and of "", [L, D].
        injection: the current keys and values.
        settings: objective, scales and weighting.
    """
    before, after, noise, timesteps = samples
    count = len(timesteps)
    noisy = add_noise(after, noise, timesteps, denoiser.alphas_cumprod)
    predicted = denoiser.predict(noisy, timesteps, before, context.expand(count, -1, -1), injection)
    if settings.objective == "guided":
        with torch.no_grad():
            images, null = (
                torch.cat([before, torch.zeros_like(before)]),
                null_context.expand(2 * count, -1, -1),
            )
            image, none = denoiser.predict(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), images, null).chunk(
                2
            )
        predicted = dual_guidance(none, image, predicted, settings.image_scale, settings.text_scale)
    error = (predicted - noise).square().mean(dim=(1, 2, 3))
    return (
        error * snr_weights(denoiser.alphas_cumprod)[timesteps] if settings.weighting == "min_snr" else error
    )
