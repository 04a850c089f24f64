"""Stage 1b trains only the decoder, on the finished encoder.

Latents do not change, so this stage can run during or after the UNet's training.
"""

from __future__ import annotations

import numpy as np
import torch

from ..models.architecture import make_vae
from ..world.photos import Photos, held_out
from .train_vae import FINE, batch, psnr, reconstruct, reconstruction_loss, validation
from .training_run import WORK, Run, arguments, load_average


def main() -> None:
    """Trains until the budget ends. Logs PSNR on unseen scenes and photographs."""
    options = arguments(__doc__ or "", seconds=2400, batch=16, rate=4e-4)
    vae = make_vae().to(options.device, memory_format=torch.channels_last)
    load_average("vae", vae)
    vae.encoder.requires_grad_(False)
    photos = Photos(WORK / "photos")
    scenes, kinds = validation()
    real = held_out()
    run = Run("decoder", vae, options)

    def report() -> None:
        run.swap()
        scene_psnr = psnr(reconstruct(vae, scenes, options.device)[0], scenes)
        photo_psnr = psnr(reconstruct(vae, real, options.device)[0], real)
        fine = [value for value, kind in zip(scene_psnr, kinds, strict=True) if kind in FINE]
        figures = {
            "scenes": scene_psnr.mean(),
            "worst": scene_psnr.min(),
            "fine": np.mean(fine),
            "photos": photo_psnr.mean(),
        }
        run.log(**{name: round(float(value), 2) for name, value in figures.items()})
        run.swap()

    report()
    while run.share < 1:
        x = batch(run.randomness(), photos, options.batch).to(options.device)
        with torch.autocast(options.device, torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(x).latents
            y = vae.decode(latents + torch.randn_like(latents) * 0.05).sample.float()
        run.apply(reconstruction_loss(y, x))
        if run.step % 200 == 0:
            report()
            run.save()
    report()
    run.save()


if __name__ == "__main__":
    main()
