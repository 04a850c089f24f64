"""Losses of learning: the noise prediction error of Eq. 5, plain or guided, and Visii's CLIP direction."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..devices import to_device
from ..diffusion.guidance import dual_guidance, needed_branches
from ..diffusion.schedule import TRAIN_TIMESTEPS, add_noise
from ..editing.denoiser import Denoiser
from ..encoders.clip import ClipModel, image_features
from ..errors import PairError
from ..instruction.injection import Injection
from ..pairs.pairs import EditPair, EditPairs
from .settings import LearningSettings

# A little below Stable Diffusion's at the last timestep.
_LEAST_SNR = 0.0045
HELD_OUT_SAMPLES = 40
"""Samples of ``held_out_error``."""
# Latent pixels of one model call, so that 512 px fit into 12 GB.
_PIXELS_AT_ONCE = 4096


@dataclass(frozen=True)
class PairLatents:
    """Pairs as latents, encoded once. Pairs may differ in size."""

    before: Sequence[Tensor]
    """Image conditions of the model, N x [C, h, w]. InstructPix2Pix: mode of the VAE, unscaled; models that
    read a mask have the mask's latent after it."""
    after: Sequence[Tensor]
    """Targets, N x [4, h, w], scaled by the VAE's scaling factor."""
    digest: str = ""
    """Identity of the pairs, stored in checkpoints. Hashed from the source pixels, because GPU encoders are
    not bit-reproducible."""
    masks: Sequence[Tensor] = ()
    """Weights of the latent pixels, N x [h, w] with mean 1: the loss acts where a pair's mask is white. Ones
    for a pair without a mask; empty if no pair has one."""

    def __post_init__(self) -> None:
        if (
            not self.before
            or len(self.before) != len(self.after)
            or any(x.shape[1:] != y.shape[1:] for x, y in zip(self.before, self.after, strict=True))
        ):
            raise PairError(
                "Pair latents: before and after need the same number of latents, at least one, and the same "
                "size in a pair."
            )
        if self.masks and [mask.shape for mask in self.masks] != [x.shape[1:] for x in self.after]:
            raise PairError("Pair latents: every pair needs a mask of its latent's size, or none has one.")

    @classmethod
    def encode(
        cls,
        pairs: EditPairs,
        encode_image: Callable[[Tensor], Tensor],
        scale: Callable[[Tensor], Tensor],
        condition: Callable[[Tensor], Tensor] | None = None,
    ) -> "PairLatents":
        """Encodes every image once.

        Args:
            pairs: the pairs.
            encode_image: [1, H, W, 3] in 0..1 -> latent [1, 4, h, w].
            scale: latent -> target latent.
            condition: [1, H, W, 3] in 0..1 -> image condition [1, C, h, w]; None if that is the latent.
        """
        with torch.no_grad():
            before = [(condition or encode_image)(pair.before[None])[0].float() for pair in pairs]
            after = [scale(encode_image(pair.after[None]))[0].float() for pair in pairs]
        digest = hashlib.sha256()
        for pair in pairs:
            digest.update(pair.before.cpu().contiguous().numpy().tobytes())
            digest.update(pair.after.cpu().contiguous().numpy().tobytes())
            if pair.mask is not None:
                digest.update(pair.mask.cpu().contiguous().numpy().tobytes())
        masks = [_latent_weights(pair, latent) for pair, latent in zip(pairs, after, strict=True)]
        masked = any(pair.mask is not None for pair in pairs)
        return cls(before, after, digest.hexdigest(), masks if masked else ())


class Samples(NamedTuple):
    """Training samples of one size, on the denoiser's device. Row i of every field is sample i."""

    before: Tensor
    """Image conditions [n, C, h, w]."""
    after: Tensor
    """Targets [n, 4, h, w]."""
    noise: Tensor
    """[n, 4, h, w]."""
    timesteps: Tensor
    """int64 [n]."""
    masks: Tensor
    """Weights of the latent pixels [n, h, w]; [n, 0, 0] if no pair has a mask."""

    def chunks(self, rows: int) -> "list[Samples]":
        """Splits the samples into chunks of at most ``rows`` samples."""
        return [Samples(*parts) for parts in zip(*(tensor.split(rows) for tensor in self), strict=True)]


@dataclass(frozen=True)
class Direction:
    """Mean difference of the images before and after, in the space that CLIP shares between images and words
    (Visii)."""

    projection: Tensor
    """CLIP's projection of text states, [D, P]."""
    target: Tensor
    """Mean features of the images after minus those before, [P]."""
    clip: str = ""
    """Fingerprint of the CLIP; empty if it is not known."""

    @classmethod
    def between(cls, before: Tensor, after: Tensor, projection: Tensor, clip: str = "") -> "Direction":
        """From image features, [N, P] each, and the projection [D, P]."""
        return cls(projection.float(), after.float().mean(0) - before.float().mean(0), clip)

    @classmethod
    @torch.no_grad()
    def of(cls, pairs: EditPairs, clip: ClipModel) -> "Direction":
        """From the normalized features of pairs."""
        before = image_features(clip, [pair.before for pair in pairs])
        after = image_features(clip, [pair.after for pair in pairs])
        return cls.between(before, after, clip.text_projection.detach(), clip.fingerprint)

    def to(self, device: torch.device) -> "Direction":
        """A copy on another device."""
        return replace(self, projection=self.projection.to(device), target=self.target.to(device))

    def loss(self, states: Tensor, clamp: bool = False) -> Tensor:
        """``1 - cos(projection(mean of the states), target)`` for text states [B, L, D], shape [B].

        Args:
            states: whole windows of text states.
            clamp: limit the cosine to 0.5.
        """
        cosine = functional.cosine_similarity(
            states.float().mean(1) @ self.projection, self.target[None], dim=1
        )
        return 1 - (cosine.clamp(-1, 0.5) if clamp else cosine)


def _latent_weights(pair: EditPair, latent: Tensor) -> Tensor:
    """The mask of a pair at its latent's size, with mean 1."""
    size = latent.shape[-2:]
    if pair.mask is None:
        return torch.ones(size, device=latent.device)
    mask = pair.mask.to(latent.device, torch.float32)[None, None]
    weights = functional.interpolate(mask, size, mode="area")[0, 0]
    return weights / weights.mean()


def timestep_weights(alphas_cumprod: Tensor) -> Tensor:
    """Weights of the timesteps, [1000], mean 1: ``min(SNR, 5) / SNR * sqrt(1 + 1 / SNR)``.

    The first factor is Min-SNR's for noise prediction (Hang et al. 2023, gamma 5): it lowers the weight of
    steps with little noise, where the input is copied. The second is ours: it raises the weight where noise
    is high, because errors there show as a drift of colors. The papers weigh all timesteps equally. No
    timestep counts more than the last one of Stable Diffusion's schedule, because schedules that end without
    any signal would have all of the weight there.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = snr.clamp(max=5) / snr * (1 + 1 / snr.clamp(min=_LEAST_SNR)).sqrt()
    return weights / weights.mean()


def collect(
    latents: PairLatents, drawn: Sequence[tuple[int, int, Tensor]], device: torch.device
) -> list[Samples]:
    """Makes samples on the device of drawn (pair, timestep, noise on the CPU), one batch for every image
    size."""
    groups: dict[tuple[int, ...], list[tuple[int, int, Tensor]]] = {}
    for each in drawn:
        groups.setdefault(tuple(latents.after[each[0]].shape), []).append(each)
    return [
        Samples(
            torch.stack([latents.before[pair] for pair, _, _ in group]),
            torch.stack([latents.after[pair] for pair, _, _ in group]),
            to_device(torch.stack([noise for _, _, noise in group]), device),
            to_device(torch.tensor([timestep for _, timestep, _ in group]), device),
            torch.stack([latents.masks[pair] for pair, _, _ in group])
            if latents.masks
            else torch.empty(len(group), 0, 0, device=device),
        )
        for _, group in sorted(groups.items())
    ]


def noise_errors(
    denoiser: Denoiser,
    samples: Samples,
    context: Tensor,
    null_context: Tensor,
    injection: Injection | None,
    settings: LearningSettings,
) -> Tensor:
    """The loss of every sample, [n] fp32, differentiable in the injection's tensors.

    ``plain`` (Eq. 5): ``mean (e(z_t, I, T) - e)^2``. ``guided``: the same with Eq. 3's combination of three
    branches as the prediction; only the instructed branch needs a gradient. The mean of a pair with a mask is
    that over its masked latent pixels. The loss of a sample does not depend on the others, so a batch with
    one sample of every segment equals training the segments in turn.

    Args:
        denoiser: the frozen model.
        samples: the samples.
        context, null_context: text states of the init text and of "", [L, D].
        injection: the current keys and values, or text states; None leaves the model as it is.
        settings: objective, scales and weighting.
    """
    before, after, noise, timesteps, masks = samples
    count = len(timesteps)
    noisy = add_noise(after, noise, timesteps, denoiser.alphas_cumprod)
    predicted = denoiser.predict(noisy, timesteps, before, context.expand(count, -1, -1), injection)
    if settings.objective == "guided":
        none, image = _null_branches(denoiser, samples, noisy, null_context, settings)
        predicted = dual_guidance(none, image, predicted, settings.image_scale, settings.text_scale)
    error = (predicted - noise).square()
    if masks.numel():
        error = error * masks[:, None]
    error = error.mean(dim=(1, 2, 3))
    if settings.weighting == "snr":
        error = error * timestep_weights(denoiser.alphas_cumprod)[timesteps]
    return error


@torch.no_grad()
def held_out_error(
    denoiser: Denoiser,
    latents: PairLatents,
    pair: int,
    contexts: tuple[Tensor, Tensor],
    injection: Injection | None,
    settings: LearningSettings,
) -> float:
    """The mean loss of one pair, over evenly spread timesteps. Each pair always has the same noise, so that
    errors of several states of learning can be compared.

    Args:
        denoiser: the frozen model.
        latents: pairs.
        pair: which of them; one that is not learned from shows how well the edit transfers.
        contexts: text states of the init text and of "", [L, D] each.
        injection: what is learned so far.
        settings: objective, scales and weighting.
    """
    generator = Generator().manual_seed(pair)
    shape = latents.after[pair].shape
    timesteps = torch.linspace(0, TRAIN_TIMESTEPS - 1, HELD_OUT_SAMPLES).long().tolist()
    drawn = [(pair, timestep, torch.randn(shape, generator=generator)) for timestep in timesteps]
    rows = max(_PIXELS_AT_ONCE // math.prod(shape[-2:]), 1)
    (samples,) = collect(latents, drawn, denoiser.device)
    errors = [noise_errors(denoiser, chunk, *contexts, injection, settings) for chunk in samples.chunks(rows)]
    return torch.cat(errors).mean().item()


@torch.no_grad()
def _null_branches(
    denoiser: Denoiser, samples: Samples, noisy: Tensor, null_context: Tensor, settings: LearningSettings
) -> tuple[Tensor | None, Tensor | None]:
    """The predictions of Eq. 3 with neither image nor instruction, and with the image; None if not needed."""
    needed = needed_branches(settings.image_scale, settings.text_scale)
    images = []
    if needed.image:
        images.append(samples.before)
    if needed.none:
        images.append(torch.zeros_like(samples.before))
    if not images:
        return None, None
    count = len(images)
    rows = count * len(noisy)
    predicted = denoiser.predict(
        noisy.repeat(count, 1, 1, 1),
        samples.timesteps.repeat(count),
        torch.cat(images),
        null_context.expand(rows, -1, -1),
    ).chunk(count)
    return (predicted[-1] if needed.none else None), (predicted[0] if needed.image else None)
