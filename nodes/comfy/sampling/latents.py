"""Images and masks through a VAE."""

import comfy.sd
import torch
from torch import Tensor

from ....core.errors import ModelError
from ....core.models.families import ModelDescription
from ....core.regions.mask_images import mask_image
from ....core.storage.image_tensors import image_batch

_SHORTEST = 16
"""Pixels of a side."""


def encode_image(vae: comfy.sd.VAE, image: Tensor, channels: int = 4) -> Tensor:
    """The latents of images: the VAE's mode, unscaled, [B, C, h, w]. Sides are cropped to multiples of 8.

    Args:
        image: what :func:`~....images.image_batch` takes.
        channels: C, which the model needs.

    Raises:
        ModelError: no images, or too small ones; or the VAE belongs to another kind of model.
    """
    image = image_batch(image, "Image", ModelError)
    if min(image.shape[1:3]) < _SHORTEST:
        raise ModelError(
            f"Image: it is {image.shape[2]} x {image.shape[1]}, each side needs at least {_SHORTEST} pixels. Connect a larger image."
        )
    latent = vae.encode(image[..., :3])
    if latent.ndim != 4 or latent.shape[1] != channels:
        raise ModelError(
            f"VAE: its latents are {tuple(latent.shape[1:])}, the model needs {channels} channels. Connect the VAE of the model itself."
        )
    return latent


def encode_with_mask(
    model: ModelDescription, vae: comfy.sd.VAE, image: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The latents of images and, for a model that reads a mask, of their masks.

    Args:
        model: what they are for.
        image: the images, what :func:`~....images.image_batch` takes.
        mask: where the edit may act, [B or 1, H, W] in 0..1; None is white, everywhere.

    Returns:
        Two of [B, C, h, w], the second [1, C, h, w] where one mask stands for all, and None where the model reads none.

    Raises:
        ModelError: a mask for a model that reads none, or the VAE of another kind of model.
        RegionError: a mask that is black all over, or that does not fit.
    """
    if mask is not None:
        model.require_mask()
    channels = model.family.latent_channels
    image = image_batch(image, "Image", ModelError)
    # The mask first: what is wrong with it is told before the image is encoded.
    white = mask_image(mask, image) if model.reads_mask else None
    return encode_image(vae, image, channels), None if white is None else encode_image(vae, white, channels)


def encode_condition(model: ModelDescription, vae: comfy.sd.VAE, image: Tensor) -> Tensor:
    """The image condition of images as one tensor, free-form where the model reads a mask: what core's denoisers take."""
    latent, mask_latent = encode_with_mask(model, vae, image)
    return (
        latent
        if mask_latent is None
        else torch.cat([latent, mask_latent.expand(len(latent), -1, -1, -1)], dim=1)
    )


def decode_image(vae: comfy.sd.VAE, latent: Tensor) -> Tensor:
    """Images [B, H, W, 3] in 0..1 of unscaled latents."""
    return vae.decode(latent)
