"""A complete editing model outside ComfyUI: text encoder, VAE and denoiser."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..diffusion.region_blending import Region
from ..errors import ModelError
from ..instruction.injection import Injection
from ..models.families import ModelDescription
from ..regions.mask_images import mask_image
from .diffusers_denoiser import DiffusersDenoiser
from .sampler import edit_latents
from .settings import DEFAULT_SAMPLING, SamplingSettings

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from transformers import CLIPTextModel, CLIPTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiffusersEditor:
    """A frozen InstructPix2Pix model on the diffusers engine. Its weights never get gradients.

    Images are fp32 [B, H, W, 3] in 0..1, with sides that are multiples of ``stride``. Latents are fp32
    [B, 4, H/8, W/8].
    """

    denoiser: DiffusersDenoiser
    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    _cut_texts: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def description(self) -> ModelDescription:
        """Family, layers and fingerprint of the model."""
        return self.denoiser.description

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.denoiser.device

    @property
    def stride(self) -> int:
        """Pixels per latent pixel, along a side."""
        config: Any = self.vae.config
        blocks = config.encoder_block_out_channels if self._is_tiny else config.block_out_channels
        return 2 ** (len(blocks) - 1)

    @property
    def window(self) -> int:
        """Tokens that the text encoder reads, start and end tokens included."""
        return int(self.text_encoder.config.max_position_embeddings)

    def count_tokens(self, text: str) -> int:
        """Number of tokens in a text, without truncation and without start and end tokens."""
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Text states, fp32 [B, L, D]. Truncates longer texts to the window, with one warning for each."""
        for text in texts:
            count = self.count_tokens(text)
            if count > self.window - 2 and text not in self._cut_texts:
                self._cut_texts.add(text)
                logger.warning(
                    "Text of %d tokens is cut to the %d that fit: %s", count, self.window - 2, text
                )
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=self.window, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(ids.to(self.device))[0].float()

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Latents of images: the mode of the VAE, unscaled.

        Raises:
            ModelError: the shape is not [B, H, W, 3], or a side is not a multiple of ``stride``.
        """
        stride = self.stride
        if images.ndim != 4 or images.shape[3] != 3:
            raise ModelError(
                f"Images: shape {tuple(images.shape)} does not fit; [batch, height, width, 3] is needed."
            )
        height, width = images.shape[1:3]
        if height % stride or width % stride or not height or not width:
            raise ModelError(
                f"Images: {width} x {height} pixels cannot be encoded; "
                f"crop or pad both sides to multiples of {stride}."
            )
        pixels = (images.movedim(3, 1).to(self.device, torch.float32) * 2 - 1).to(self.vae.dtype)
        encoded: Any = self.vae.encode(pixels)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mode().float()
        # A tiny autoencoder returns scaled latents.
        return encoded.latents.float() / self.description.family.scaling_factor

    def condition(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Image condition for the denoiser: latents of the images, then of the masks if the model reads them.

        Args:
            images: the images.
            masks: where the edit may act, [h, w] or [b, h, w] in 0..1, with the images' aspect ratio. None
                means everywhere.

        Returns:
            [B, C, h, w], where C is ``description.condition_channels``.

        Raises:
            ModelError: as ``encode_images``, or the model reads no mask and one is given.
            RegionError: a mask is black everywhere or does not fit.
        """
        latents = self.encode_images(images)
        if masks is not None:
            self.description.require_mask()
        if not self.description.reads_mask:
            return latents
        mask_latents = self.encode_images(mask_image(masks, images))
        return torch.cat([latents, mask_latents.expand(len(images), -1, -1, -1)], dim=1)

    @cached_property
    def null_context(self) -> Tensor:
        """Text states of "", fp32 [L, D]."""
        return self.encode_text([""])[0]

    def edit(
        self,
        images: Tensor,
        instruction: str | Sequence[str] | Tensor | Injection,
        settings: SamplingSettings = DEFAULT_SAMPLING,
        region: Region | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Edits images.

        Args:
            images: the images.
            instruction: words (one text for all images, or one for each), text states ([L, D] or
                [B, L, D]), or a learned instruction prepared by ``inject`` (core/instruction/injection.py).
            settings: steps, scales, seed and noise.
            region: where the edit may act, by blending with the source while sampling. Works on any model.
            masks: where the edit may act, as input of a model that reads masks; see ``condition``.

        Returns:
            Edited images in 0..1, fp32 [B, H, W, 3] on the model's device.

        Raises:
            ModelError: as ``condition``.
            RegionError: as ``condition``.
        """
        injection = None
        if isinstance(instruction, Injection):
            context = self.null_context
            injection = instruction
        elif isinstance(instruction, Tensor):
            context = instruction
        else:
            context = self.encode_text([instruction] if isinstance(instruction, str) else instruction)
        condition = self.condition(images, masks)
        latents = edit_latents(
            self.denoiser, condition, context, self.null_context, injection, settings, region
        )
        return self.decode(latents)

    def scale(self, latents: Tensor) -> Tensor:
        """Scales latents to the range that the denoiser works in."""
        return latents * self.description.family.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in 0..1 from scaled latents.

        Raises:
            ModelError: the shape is not [B, 4, h, w].
        """
        if latents.ndim != 4 or latents.shape[1] != 4:
            raise ModelError(
                f"Latents: shape {tuple(latents.shape)} does not fit; [batch, 4, height, width] is needed."
            )
        unscaled = latents.float()
        if not self._is_tiny:
            unscaled = unscaled / self.description.family.scaling_factor
        decode: Any = self.vae.decode
        pixels = decode(unscaled.to(self.device, self.vae.dtype), return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1).movedim(1, 3)

    @property
    def _is_tiny(self) -> bool:
        return "encoder_block_out_channels" in self.vae.config
