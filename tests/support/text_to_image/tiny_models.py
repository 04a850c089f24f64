"""Random text-to-image models of SD1.5's and SDXL's true layout with few channels, as diffusers folders."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from instructbrush.core.models.tokenizer import clip_tokenizer

SIDE = 64
"""Pixels of the images that tests make."""
_SD = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "norm_num_groups": 8}
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {
        **_SD,
        "block_out_channels": [16, 16, 32, 32],
        "layers_per_block": 2,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    },
    "sdxl": {
        **_SD,
        "block_out_channels": [16, 32, 32],
        "layers_per_block": 2,
        "cross_attention_dim": 32 + 48,
        "attention_head_dim": [2, 4, 4],
        "use_linear_projection": True,
        "transformer_layers_per_block": [1, 2, 3],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    },
}
_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = {
    "sd15": DDIMScheduler(**_SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    # SDXL-Turbo's.
    "sdxl": EulerAncestralDiscreteScheduler(**_SCHEDULE, timestep_spacing="trailing"),
}


def write_model(folder: Path, kind: str = "sd15", seed: int = 0) -> Path:
    """Writes a model of the layout ``sd15`` or ``sdxl``. Its text states matter: their scale is raised."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**UNETS[kind])
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".attn" in name and name.endswith("weight"):
                weight.mul_(3)
    unet.save_pretrained(folder / "unet")
    blocks = 4
    AutoencoderKL(
        block_out_channels=[8] * blocks,
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(text_config(32)).save_pretrained(folder / "text_encoder")
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    if kind == "sdxl":
        CLIPTextModelWithProjection(text_config(48)).save_pretrained(folder / "text_encoder_2")
        clip_tokenizer("!").save_pretrained(folder / "tokenizer_2")
    scheduler: SchedulerMixin = SCHEDULERS[kind]
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"force_zeros_for_empty_prompt": True}))
    return folder


def text_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=24,
        bos_token_id=49406,
        eos_token_id=49407,
    )
