"""Stage 1: the autoencoder, on crops of edited scenes and of photographs."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import nn

from ..models.architecture import make_vae
from ..world.drawing import SIZE
from ..world.effects import KINDS, TONE, edit, sample_edit, tone_edit
from ..world.image_grid import grid
from ..world.photos import Photos, held_out
from ..world.scenes import sample_scene
from .training_run import WORK, Run, arguments

CROP = 64
FINE = (
    "eyes",
    "smile",
    "glasses",
    "dots",
    "stripes",
    "hat",
    "border",
    "sketch",
    "charcoal",
    "snow",
    "rain",
    "frame",
)
"""Kinds whose marks are thin: what the autoencoder loses here, no edit can draw."""


def identity_start(vae: AutoencoderTiny) -> None:
    """Initialise as an 8x colour-averaging autoencoder: red, green and blue travel in three channels through every layer.

    Ordinary and fixup initialisations stall near 17 dB on a small budget; this one starts at what averaging gives.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, AutoencoderTinyBlock):
            module.conv[-1].weight.data.mul_(0.01)
    tent = torch.tensor([0.25, 0.5, 0.25])
    tent = tent[:, None] * tent[None]
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1

    def carry(conv: nn.Conv2d, kernel: torch.Tensor) -> None:
        conv.weight.data[:3] = 0
        for channel in range(3):
            conv.weight.data[channel, channel] = kernel

    encoder = [layer for layer in vae.encoder.layers if isinstance(layer, nn.Conv2d)]
    decoder = [layer for layer in vae.decoder.layers if isinstance(layer, nn.Conv2d)]
    carry(encoder[0], centre)
    for conv in encoder[1:-1]:
        carry(conv, tent)
    carry(encoder[-1], centre * 4)  # 0..1 to -2..2: about unit deviation
    encoder[-1].bias.data[:3] = -2
    encoder[-1].weight.data[3] *= 0.3
    carry(decoder[0], centre / 4)
    decoder[0].bias.data[:3] = 0.5
    for conv in decoder[1:-1]:
        carry(conv, centre)
    decoder[-1].weight.data *= 0.3
    carry(decoder[-1], centre)


def image(rng: np.random.Generator, photos: Photos) -> np.ndarray:
    """One training image [128, 128, 3]: a photograph (a quarter), a fine mark (four in ten), or any edit."""
    draw = rng.random()
    if draw < 0.25:
        crop = photos.crop(rng)
        return tone_edit(TONE[rng.integers(len(TONE))], rng)[1](crop) if rng.random() < 0.3 else crop
    scene = sample_scene(rng, dressed=0.3)
    if draw < 0.65:
        made = edit(scene, FINE[rng.integers(len(FINE))], rng)
        if made is not None:
            return made.render()
    return sample_edit(scene, rng).render()


def batch(rng: np.random.Generator, photos: Photos, size: int) -> torch.Tensor:
    """Random 64 px crops, four of each image: [size, 3, 64, 64] in [-1, 1]."""
    crops = []
    for _ in range((size + 3) // 4):
        whole = image(rng, photos)
        for y, x in rng.integers(0, SIZE - CROP + 1, (4, 2)):
            crops.append(whole[y : y + CROP, x : x + CROP])
    return to_tensor(np.stack(crops[:size]))


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Images [n, h, w, 3] in 0..1 to a channels-last tensor [n, 3, h, w] in [-1, 1]."""
    return (torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2) * 2 - 1).contiguous(
        memory_format=torch.channels_last
    )


def to_images(tensor: torch.Tensor) -> np.ndarray:
    """Inverse of `to_tensor`, clipped."""
    return (tensor.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB."""
    return 10 * np.log10(1 / np.maximum(((a - b) ** 2).mean((1, 2, 3)), 1e-8))


def gradient_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the horizontal and vertical steps."""
    return (a.diff(dim=-1) - b.diff(dim=-1)).abs().mean() + (a.diff(dim=-2) - b.diff(dim=-2)).abs().mean()


@torch.no_grad()
def reconstruct(
    vae: AutoencoderTiny, images: np.ndarray, device: str = "cpu"
) -> tuple[np.ndarray, torch.Tensor]:
    """Encode and decode in bf16: the images again, and their latents."""
    with torch.autocast(device, torch.bfloat16):
        latents = vae.encode(to_tensor(images).to(device)).latents
        decoded = vae.decode(latents).sample
    return to_images(decoded), latents.float()


def validation() -> tuple[np.ndarray, list[str]]:
    """Two unseen images of every kind of edit."""
    rng = np.random.default_rng(99_991)
    images, names = [], []
    for kind in KINDS * 2:
        made = None
        while made is None:
            made = edit(sample_scene(rng), kind, rng)
        images.append(made.render())
        names.append(kind)
    return np.stack(images), names


def main() -> None:
    """Train until the budget ends; report PSNR on unseen scenes and photographs."""
    options = arguments(__doc__ or "", seconds=1000, batch=16, rate=6e-4)
    vae = make_vae().to(options.device, memory_format=torch.channels_last)
    identity_start(vae)
    photos, scenes, real = Photos(WORK / "photos"), validation(), held_out()
    run = Run("vae", vae, options)

    def report() -> None:
        run.swap()
        again, latents = reconstruct(vae, scenes[0], options.device)
        ours, theirs = psnr(again, scenes[0]), psnr(reconstruct(vae, real, options.device)[0], real)
        fine = [value for value, kind in zip(ours, scenes[1], strict=True) if kind in FINE]
        run.log(
            scenes=round(float(ours.mean()), 2),
            worst=round(float(ours.min()), 2),
            fine=round(float(np.mean(fine)), 2),
            photos=round(float(theirs.mean()), 2),
            mean=[round(v, 2) for v in latents.mean((0, 2, 3)).tolist()],
            deviation=[round(v, 2) for v in latents.std((0, 2, 3)).tolist()],
        )
        order = np.argsort(ours)[:24]
        grid(
            [
                row
                for i in range(0, 24, 12)
                for row in (scenes[0][order[i : i + 12]], again[order[i : i + 12]])
            ],
            WORK / "vae.png",
        )
        run.swap()

    report()
    while run.share < 1:
        rng = run.randomness()
        x = batch(rng, photos, options.batch).to(options.device)
        with torch.autocast(options.device, torch.bfloat16):
            latents = vae.encode(x).latents
            noisy = latents + torch.randn_like(latents) * min(
                0.06, run.step * 6e-5
            )  # so that small errors of the UNet do not show
            y = vae.decode(noisy).sample.float()
        z = latents.float()
        centred = (
            z.mean((0, 2, 3)).square().mean()
            + (z.square().mean((0, 2, 3)).add(1e-6).sqrt() - 1).square().mean()
        )
        # The weights are for differences in 0..1; x and y are in -1..1.
        loss = (
            0.5 * (y - x).abs().mean()
            + 0.5 * (y - x).square().mean()
            + 0.25 * gradient_loss(y, x)
            + 0.05 * centred
        )
        run.apply(loss)
        if run.step % 200 == 0:
            report()
            run.save()
    report()
    run.save()


if __name__ == "__main__":
    main()
