"""A random GLIGEN for inpainting with SD1.4's layout of parts and few channels, as a diffusers folder."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    PNDMScheduler,
    StableDiffusionGLIGENPipeline,  # pyright: ignore[reportPrivateImportUsage]
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from instructbrush.core.models.builtin import POCKET_FOLDER


def write_gligen(folder: Path) -> Path:
    """Writes a model for images of 64 px, in which boxes and phrases act."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=9, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, attention_type="gated",
    )  # fmt: skip
    for name, weight in unet.named_parameters():
        if "alpha" in name:  # the gates of GLIGEN's layers begin closed
            torch.nn.init.constant_(weight, 0.5)
    blocks = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    vae = AutoencoderKL(
        down_block_types=blocks[0], up_block_types=blocks[1], block_out_channels=(32,) * 4, latent_channels=4,
        sample_size=64,
    )  # fmt: skip
    StableDiffusionGLIGENPipeline(
        vae, CLIPTextModel.from_pretrained(POCKET_FOLDER / "text_encoder"),
        CLIPTokenizer.from_pretrained(POCKET_FOLDER / "tokenizer"), unet,
        PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True),
        None, None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder
