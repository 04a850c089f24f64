"""Architectures of the pocket editor's parts.

All are diffusers or transformers classes, so stock loaders read them.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel

# Rows of the text context.
CONTEXT = 32
# Width of the text states and of the shared CLIP space.
WIDTH = 128
VAE_WIDTH = 32
CHANNELS = (64, 128, 128)
LAYERS = 1
BETAS = (0.00085, 0.012)


def make_vae(width: int = VAE_WIDTH) -> AutoencoderTiny:
    """Builds a narrow TAESD: 128 px images in [-1, 1] to latents [4, 16, 16] of about unit variance."""
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=(1, 3, 3, 3),
        num_decoder_blocks=(3, 3, 3, 1),
        latent_channels=4,
        scaling_factor=1.0,
    )


def make_unet(
    channels: tuple[int, ...] = CHANNELS, layers: int = LAYERS, in_channels: int = 8
) -> UNet2DConditionModel:
    """Builds the InstructPix2Pix UNet with cross-attention at 16, 8 and 4 px.

    It has 8 input channels (noisy latent, image latent), or 12 with the mask latent. Widths are multiples of
    the first one and there are 32 norm groups, because ComfyUI's UNet supports nothing else.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=32,
    )


def is_tuned(name: str) -> bool:
    """Whether fine-tuning changes a parameter of the UNet.

    Middle block, time embedding, and keys and values of cross-attention stay as they are.
    """
    return not (
        name.startswith(("mid_block.", "time_embedding.")) or ".attn2.to_k." in name or ".attn2.to_v." in name
    )


def make_clip(vocabulary: int, bos: int, eos: int) -> CLIPModel:
    """Builds a small CLIP: a 3-layer text tower and a 3-layer image tower with 16 px patches."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "quick_gelu",
        "projection_dim": WIDTH,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": eos,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 128,
        "patch_size": 16,
        "hidden_act": "quick_gelu",
        "projection_dim": WIDTH,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def make_scheduler() -> EulerAncestralDiscreteScheduler:
    """Builds an Euler ancestral sampler with Stable Diffusion's noise schedule."""
    return EulerAncestralDiscreteScheduler(
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="epsilon",
    )


def alphas_cumprod() -> torch.Tensor:
    """Returns the cumulative alphas of the noise schedule, float32 [1000]."""
    betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, 1000) ** 2
    return torch.cumprod(1 - betas, 0)
