"""Encodes images and masks with a VAE, and decodes images."""

import comfy.sd
import torch
from torch import Tensor

from ....core.errors import ModelError
from ....core.models.families import ModelDescription
from ....core.regions.mask_images import mask_image
from ....core.storage.image_tensors import image_batch
from ..models.plain_weights import comfyui_mode

_SHORTEST_SIDE = 16


def encode_image(vae: comfy.sd.VAE, image: Tensor, channels: int = 4) -> Tensor:
    """Encodes images to unscaled latents [B, C, h, w]: the VAE's mode. Crops sides to multiples of 8.

    Args:
        vae: the VAE.
        image: the images, in a form that ``image_batch`` (core/storage/image_tensors.py) accepts.
        channels: C, the latent channels of the model.

    Raises:
        ModelError: there are no images, they are too small, or the VAE belongs to another kind of model.
    """
    image = image_batch(image, "Image", ModelError)
    if min(image.shape[1:3]) < _SHORTEST_SIDE:
        raise ModelError(
            f"Image: it is {image.shape[2]} x {image.shape[1]}, each side needs at least "
            f"{_SHORTEST_SIDE} pixels. Connect a larger image."
        )
    with comfyui_mode():
        latent = vae.encode(image[..., :3])
    if latent.ndim != 4 or latent.shape[1] != channels:
        raise ModelError(
            f"VAE: its latents are {tuple(latent.shape[1:])}, the model needs {channels} channels. "
            "Connect the VAE of the model itself."
        )
    return latent


def encode_with_mask(
    model: ModelDescription, vae: comfy.sd.VAE, image: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Encodes images and, if the model reads a mask, their masks.

    Args:
        model: the model that the latents are for.
        vae: its VAE.
        image: the images, as for ``encode_image``.
        mask: where the edit may act, [B or 1, H, W] in 0..1. None means everywhere.

    Returns:
        Latents of the images [B, C, h, w], and of the masks [B or 1, C, h, w], or None if the model reads no
        mask.

    Raises:
        ModelError: as ``encode_image``, or the model reads no mask and one is given.
        RegionError: a mask is black everywhere or does not fit.
    """
    if mask is not None:
        model.require_mask()
    channels = model.family.latent_channels
    image = image_batch(image, "Image", ModelError)
    # Check the mask before the image is encoded, which is slow.
    masks = mask_image(mask, image) if model.reads_mask else None
    latent = encode_image(vae, image, channels)
    return latent, None if masks is None else encode_image(vae, masks, channels)


def encode_condition(model: ModelDescription, vae: comfy.sd.VAE, image: Tensor) -> Tensor:
    """Image condition [B, C, h, w] for a ``Denoiser``. Models that read a mask may edit everywhere."""
    latent, mask_latent = encode_with_mask(model, vae, image)
    if mask_latent is None:
        return latent
    return torch.cat([latent, mask_latent.expand(len(latent), -1, -1, -1)], dim=1)


def decode_image(vae: comfy.sd.VAE, latent: Tensor) -> Tensor:
    """Decodes unscaled latents to images [B, H, W, 3] in 0..1."""
    with comfyui_mode():
        return vae.decode(latent)
