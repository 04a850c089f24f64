"""Pictures through a VAE."""

import comfy.sd
from torch import Tensor

from ...core.errors import ModelError

LATENT_CHANNELS = 4


def encode_image(vae: comfy.sd.VAE, image: Tensor) -> Tensor:
    """The image condition of pictures [B, H, W, 3]: the latent's mode, unscaled, [B, 4, h, w]. Sides are cropped to multiples of 8.

    Raises:
        ModelError: the VAE belongs to another kind of model.
    """
    latent = vae.encode(image[..., :3])
    if latent.ndim != 4 or latent.shape[1] != LATENT_CHANNELS:
        raise ModelError(
            f"VAE: its latents are {tuple(latent.shape[1:])}, an InstructPix2Pix model needs {LATENT_CHANNELS} channels. Connect the VAE of the model itself."
        )
    return latent


def decode_image(vae: comfy.sd.VAE, latent: Tensor) -> Tensor:
    """Pictures [B, H, W, 3] in 0..1 of unscaled latents."""
    return vae.decode(latent)
