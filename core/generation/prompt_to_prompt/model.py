"""Text-to-image models of Stable Diffusion's layouts, loaded from local diffusers folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError
from ...models.hub_folders import how_to_download, model_folder, model_title
from ...models.module_builder import ModuleBuilder, folder_text_encoder, folder_vae
from ...models.tokenizer import tokenizer_from_folder
from ...models.weights import folder_weights, read_config, read_json

# Others draw noise that has no seed, or predict something else.
_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
_TIME_IDS = 6


@dataclass(frozen=True)
class TextStates:
    """What a UNet reads of B captions."""

    states: Tensor
    """[B, L, D]."""
    pooled: Tensor | None
    """[B, P], for SDXL."""


@dataclass(frozen=True)
class TextToImage:
    """A frozen text-to-image model: SD1.5, SD2.1, SDXL, or one of their layout such as SDXL-Turbo.

    Images are fp32 [B, H, W, 3] in 0..1. Latents are scaled, [B, 4, h, w].
    """

    title: str
    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    """One, or SDXL's two."""
    tokenizers: tuple[Any, ...]
    scheduler: Any
    """Is copied for each run."""
    zero_null: bool
    """Whether the branch without text reads zeros instead of the states of "", as SDXL's pipeline does."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the UNet's weights."""
        return next(self.unet.parameters()).dtype

    @property
    def is_xl(self) -> bool:
        """Whether the UNet reads pooled text states and sizes."""
        return len(self.text_encoders) == 2

    @cached_property
    def stride(self) -> int:
        """Pixels of an image's side for each element of the latent's side."""
        config = self.vae.config
        blocks = config.encoder_block_out_channels if self._is_tiny else config.block_out_channels
        return 2 ** (len(blocks) - 1)

    @torch.no_grad()
    def read(self, captions: Sequence[str]) -> TextStates:
        """Encodes captions. Tokens beyond the text window are cut off."""
        states = []
        pooled = None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            ids = tokenizer(
                list(captions), padding="max_length", truncation=True, return_tensors="pt", verbose=False
            ).input_ids.to(self.device)
            if not self.is_xl:
                return TextStates(encoder(ids)[0].to(self.dtype), None)
            encoded = encoder(ids, output_hidden_states=True)
            states.append(encoded.hidden_states[-2])
            pooled = encoded[0]
        return TextStates(torch.cat(states, -1).to(self.dtype), pooled)

    def read_nothing(self, count: int) -> TextStates:
        """What the UNet reads in the branch without text."""
        null = self.read([""] * count)
        if not (self.zero_null and null.pooled is not None):
            return null
        return TextStates(torch.zeros_like(null.states), torch.zeros_like(null.pooled))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images: the mode of the VAE."""
        latents = [self._encode_one(image[None]) for image in images]
        return torch.cat(latents).to(self.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents, one at a time."""
        factor = self.vae.config.scaling_factor
        images = []
        for latent in latents:
            pixels = self.vae.decode((latent[None] / factor).to(self.vae.dtype), return_dict=False)[0]
            images.append((pixels.float() / 2 + 0.5).clamp(0, 1).movedim(1, 3))
        return torch.cat(images)

    def _encode_one(self, image: Tensor) -> Tensor:
        pixels = (image.movedim(3, 1).to(self.device, torch.float32) * 2 - 1).to(self.vae.dtype)
        encoded = self.vae.encode(pixels)
        latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latent * self.vae.config.scaling_factor

    @property
    def _is_tiny(self) -> bool:
        return "encoder_block_out_channels" in self.vae.config


def load_text_to_image(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> TextToImage:
    """Loads a model from a diffusers folder. Reads ``.safetensors`` files only, and uses no network.

    Args:
        path: the folder, with ``unet``, ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler``; for SDXL
            also ``text_encoder_2`` and ``tokenizer_2``. Also a folder of the Hugging Face cache.
        device: device of the weights.
        dtype: fp32, fp16 or bf16. A VAE that needs fp32 gets it.

    Raises:
        ModelError: the folder does not exist, is incomplete or damaged, or holds a model of another kind.
    """
    folder = model_folder(path)
    if not (folder / "unet").is_dir():
        raise ModelError(
            f"'{path}' is no text-to-image model: it has no folder 'unet'. Give the folder of a model of "
            f"SD1.5's, SD2.1's or SDXL's layout. {how_to_download(str(path))}".strip()
        )
    title = model_title(folder)
    config = read_config(folder / "unet" / "config.json")
    _check_unet(title, config)
    # Small files first: they may be wrong, too.
    scheduler = _scheduler(title, folder)
    vae_dtype = _vae_dtype(title, folder, dtype)
    builder = ModuleBuilder(title, torch.device(device), dtype)
    unet = builder.unet(config, dict(folder_weights(folder / "unet", ("diffusion_pytorch_model",)).tensors()))
    encoders = [folder_text_encoder(builder, folder)]
    tokenizers = [tokenizer_from_folder(folder / "tokenizer")]
    if config.get("addition_embed_type") == "text_time":
        encoders.append(folder_text_encoder(builder, folder, "text_encoder_2", projects=True))
        tokenizers.append(tokenizer_from_folder(folder / "tokenizer_2"))
    _check_widths(title, unet, encoders)
    return TextToImage(
        title,
        unet,
        folder_vae(ModuleBuilder(title, torch.device(device), vae_dtype), folder),
        tuple(encoders),
        tuple(tokenizers),
        scheduler,
        _zero_null(folder),
    )


def _check_unet(title: str, config: dict[str, Any]) -> None:
    channels = config.get("in_channels", 4)
    if channels != 4:
        raise ModelError(
            f"{title}: its UNet has {channels} input channels, so it is an editor or an inpainting model. "
            "Choose a text-to-image model, which has 4."
        )
    allowed = {"addition_embed_type": "text_time"}
    for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim"):
        value = config.get(name)
        if value is not None and value != allowed.get(name):
            raise ModelError(
                f"{title}: its UNet has {name} = {str(value)[:40]}, which no model of SD1.5's, SD2.1's or "
                "SDXL's layout has. Choose another model."
            )


def _check_widths(title: str, unet: Any, encoders: Sequence[Any]) -> None:
    width = sum(encoder.config.hidden_size for encoder in encoders)
    if unet.config.cross_attention_dim != width:
        raise ModelError(
            f"{title}: its text encoders give states of width {width}, its UNet reads "
            f"{unet.config.cross_attention_dim}. Download the model again."
        )
    if len(encoders) == 2:
        projected = encoders[1].config.projection_dim
        read = unet.add_embedding.linear_1.in_features - _TIME_IDS * unet.config.addition_time_embed_dim
        if projected != read:
            raise ModelError(
                f"{title}: its UNet reads {read} pooled text states, its text encoder gives {projected}. "
                "Choose a base model; refiners are not supported."
            )


def _vae_dtype(title: str, folder: Path, dtype: torch.dtype) -> torch.dtype:
    config = read_config(folder / "vae" / "config.json")
    if config.get("latents_mean") is not None or config.get("shift_factor"):
        raise ModelError(f"{title}: its VAE shifts latents, which is not supported. Choose another model.")
    # SDXL's VAE overflows in fp16, and says so.
    return torch.float32 if dtype == torch.float16 and config.get("force_upcast", True) else dtype


def _scheduler(title: str, folder: Path) -> Any:
    import diffusers

    config = read_json(folder / "scheduler" / "scheduler_config.json")
    name = config.get("_class_name")
    if name not in _SCHEDULERS:
        raise ModelError(
            f"{title}: its scheduler '{str(name)[:60]}' is not supported. Put another into its folder "
            f"'scheduler': {', '.join(_SCHEDULERS)}."
        )
    try:
        return getattr(diffusers, name).from_config(config)
    except Exception as error:  # diffusers raises anything on an invalid configuration
        raise ModelError(
            f"{title}: its scheduler_config.json cannot be used ({str(error)[:300]}). Download it again."
        ) from error


def _zero_null(folder: Path) -> bool:
    index = folder / "model_index.json"
    # diffusers' default.
    return bool(read_json(index).get("force_zeros_for_empty_prompt", True)) if index.is_file() else True
