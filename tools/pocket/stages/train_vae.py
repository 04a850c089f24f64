"""Stage 1 trains the autoencoder on crops of edited scenes and photographs."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import nn

from ..models.architecture import make_vae
from ..world.drawing import SIZE
from ..world.effects import KINDS, edit, sample_edit
from ..world.image_grid import grid
from ..world.photos import Photos, held_out
from ..world.scenes import sample_scene
from ..world.tone_effects import TONE, tone_edit
from .training_run import WORK, Run, arguments

CROP = 64
# Kinds of edits with thin marks. The editor cannot draw what the autoencoder loses here.
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


def identity_start(vae: AutoencoderTiny) -> None:
    """Initializes an 8x averaging autoencoder: three channels carry red, green and blue through every layer.

    With a small budget, usual and fixup initializations stall near 17 dB. This one starts at the quality of
    averaging.
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
    carry(encoder[-1], centre * 4)  # 0..1 to -2..2: about unit standard deviation
    encoder[-1].bias.data[:3] = -2
    encoder[-1].weight.data[3] *= 0.3
    carry(decoder[0], centre / 4)
    decoder[0].bias.data[:3] = 0.5
    for conv in decoder[1:-1]:
        carry(conv, centre)
    decoder[-1].weight.data *= 0.3
    carry(decoder[-1], centre)


def image(rng: np.random.Generator, photos: Photos) -> np.ndarray:
    """Draws a training image [128, 128, 3]: a photograph (25 %), a fine mark (40 %) or any edit."""
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
    """Draws random 64 px crops, four of each image: [size, 3, 64, 64] in [-1, 1]."""
    crops = []
    for _ in range((size + 3) // 4):
        whole = image(rng, photos)
        for y, x in rng.integers(0, SIZE - CROP + 1, (4, 2)):
            crops.append(whole[y : y + CROP, x : x + CROP])
    return to_tensor(np.stack(crops[:size]))


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Converts images [n, h, w, 3] in 0..1 to a channels-last tensor [n, 3, h, w] in [-1, 1]."""
    return (torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2) * 2 - 1).contiguous(
        memory_format=torch.channels_last
    )


def to_images(tensor: torch.Tensor) -> np.ndarray:
    """Inverts `to_tensor` and clips to 0..1."""
    return (tensor.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of each image in dB."""
    return 10 * np.log10(1 / np.maximum(((a - b) ** 2).mean((1, 2, 3)), 1e-8))


def gradient_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Returns the mean absolute difference of horizontal and vertical gradients."""
    return (a.diff(dim=-1) - b.diff(dim=-1)).abs().mean() + (a.diff(dim=-2) - b.diff(dim=-2)).abs().mean()


def reconstruction_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Returns the loss of images in [-1, 1]. The weights are meant for differences of images in 0..1."""
    return 0.5 * (a - b).abs().mean() + 0.5 * (a - b).square().mean() + 0.25 * gradient_loss(a, b)


def latent_loss(latents: torch.Tensor) -> torch.Tensor:
    """Pulls each latent channel towards mean 0 and standard deviation 1."""
    z = latents.float()
    deviation = z.square().mean((0, 2, 3)).add(1e-6).sqrt()
    return z.mean((0, 2, 3)).square().mean() + (deviation - 1).square().mean()


@torch.no_grad()
def reconstruct(
    vae: AutoencoderTiny, images: np.ndarray, device: str = "cpu"
) -> tuple[np.ndarray, torch.Tensor]:
    """Encodes and decodes images in bf16. Returns the reconstructions and the latents."""
    with torch.autocast(device, torch.bfloat16):
        latents = vae.encode(to_tensor(images).to(device)).latents
        decoded = vae.decode(latents).sample
    return to_images(decoded), latents.float()


def validation() -> tuple[np.ndarray, list[str]]:
    """Draws two unseen images of every kind of edit. Returns also the kinds."""
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
    """Trains until the budget ends. Logs PSNR on unseen scenes and photographs."""
    options = arguments(__doc__ or "", seconds=1000, batch=16, rate=6e-4)
    vae = make_vae().to(options.device, memory_format=torch.channels_last)
    identity_start(vae)
    photos = Photos(WORK / "photos")
    scenes, kinds = validation()
    real = held_out()
    run = Run("vae", vae, options)

    def report() -> None:
        run.swap()
        decoded, latents = reconstruct(vae, scenes, options.device)
        scene_psnr = psnr(decoded, scenes)
        photo_psnr = psnr(reconstruct(vae, real, options.device)[0], real)
        fine = [value for value, kind in zip(scene_psnr, kinds, strict=True) if kind in FINE]
        run.log(
            scenes=round(float(scene_psnr.mean()), 2),
            worst=round(float(scene_psnr.min()), 2),
            fine=round(float(np.mean(fine)), 2),
            photos=round(float(photo_psnr.mean()), 2),
            mean=[round(v, 2) for v in latents.mean((0, 2, 3)).tolist()],
            deviation=[round(v, 2) for v in latents.std((0, 2, 3)).tolist()],
        )
        worst = np.argsort(scene_psnr)[:24]
        rows = []
        for start in range(0, 24, 12):
            row = worst[start : start + 12]
            rows += [scenes[row], decoded[row]]
        grid(rows, WORK / "vae.png")
        run.swap()

    report()
    while run.share < 1:
        rng = run.randomness()
        x = batch(rng, photos, options.batch).to(options.device)
        with torch.autocast(options.device, torch.bfloat16):
            latents = vae.encode(x).latents
            # Noise makes the decoder robust against small errors of the UNet.
            noisy = latents + torch.randn_like(latents) * min(0.06, run.step * 6e-5)
            y = vae.decode(noisy).sample.float()
        run.apply(reconstruction_loss(y, x) + 0.05 * latent_loss(latents))
        if run.step % 200 == 0:
            report()
            run.save()
    report()
    run.save()


if __name__ == "__main__":
    main()
