"""Random Stable Diffusion models with the key names of diffusers or of the original code.

The names of the original code are listed here as in diffusers' conversion script for SD1.5, so that tests do
not depend on the code under test.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

UNET = {"sample_size": 64, "in_channels": 8, "out_channels": 4, "layers_per_block": 2}
SD15 = {
    **UNET,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD21 = {
    **UNET,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SDXL = {
    **UNET,
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# SD1.5's layout with its 16 attention sites, but few channels.
SMALL_SD15 = {**SD15, "block_out_channels": [32, 32, 64, 64], "attention_head_dim": 4}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SMALL_VAE = {**VAE, "block_out_channels": [32] * 4, "layers_per_block": 1}
CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
SMALL_CLIP = {**CLIP_L, "vocab_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def unet_shapes(config: Mapping[str, Any]) -> Shapes:
    """Returns the shapes of a UNet under diffusers' names, without allocating it."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return shapes_of(UNet2DConditionModel.from_config(dict(config)))


def vae_shapes(config: Mapping[str, Any]) -> Shapes:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return shapes_of(AutoencoderKL.from_config(dict(config)))


def text_shapes(config: Mapping[str, Any]) -> Shapes:
    """Returns the shapes of CLIP's text encoder under the names of published files (``text_model.…``)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        shapes = shapes_of(CLIPTextModel(CLIPTextConfig(**config)))
    return {"text_model." + name.removeprefix("text_model."): shape for name, shape in shapes.items()}


def shapes_of(module: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def native_unet_name(name: str) -> str:
    """Returns a UNet tensor's name in the original code, for models with two layers a block."""
    levels = 3
    fixed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    stem, _, leaf = name.rpartition(".")
    if stem in fixed:
        return f"{fixed[stem]}.{leaf}"
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    if found := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        way, level, kind, layer, rest = found.groups()
        number = int(level) * levels + int(layer) + (way == "down")
        block = f"{'input' if way == 'down' else 'output'}_blocks.{number}"
    elif found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, layer, rest = found.groups()
        block, number = "middle_block", 2 * int(layer)
        return f"{block}.1.{rest}" if kind == "attentions" else f"{block}.{number}.{_renamed(rest, resnet)}"
    elif found := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{levels * (int(found.group(1)) + 1)}.0.op.{found.group(2)}"
    else:
        raise AssertionError(name)
    return f"{block}.1.{rest}" if kind == "attentions" else f"{block}.0.{_renamed(rest, resnet)}"


def native_unet(named: Mapping[str, Any]) -> dict[str, Any]:
    """Renames all tensors of a UNet to the names of the original code."""
    renamed = {}
    for name, value in named.items():
        if found := re.match(r"up_blocks\.(\d)\.upsamplers\.0\.(.*)", name):
            level = found.group(1)
            place = 2 if any(other.startswith(f"up_blocks.{level}.attentions") for other in named) else 1
            renamed[f"output_blocks.{3 * int(level) + 2}.{place}.{found.group(2)}"] = value
        else:
            renamed[native_unet_name(name)] = value
    return renamed


def native_vae_name(name: str) -> str:
    """Returns a VAE tensor's name in the original code."""
    name = re.sub(r"^(encoder|decoder)\.conv_norm_out", r"\1.norm_out", name).replace(
        "conv_shortcut", "nin_shortcut"
    )
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for new, old in {
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    return name


def _renamed(rest: str, table: Mapping[str, str]) -> str:
    stem, _, leaf = rest.rpartition(".")
    return f"{table[stem]}.{leaf}"


def weights(shapes: Shapes, seed: int, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
    """Yields random weights that keep activations finite: variance 1/fan-in, norms near 1, small biases.

    Cuts each tensor from a pool of a million normal numbers, which is much faster than drawing it.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(1 << 20, generator=generator)
    for name, shape in shapes.items():
        count = math.prod(shape)
        offset = int(torch.randint(1 << 19, (), generator=generator))
        if count <= 1 << 19:
            values = pool[offset : offset + count]
        else:
            values = pool.repeat(-(-count // len(pool)))[:count]
        if len(shape) == 1:
            values = values * 0.02 + float(name.endswith("weight"))
        else:
            values = values * math.prod(shape[1:]) ** -0.5 + 0.0
        yield name, values.view(shape).to(dtype)


def checkpoint(
    seed: int,
    unet: Mapping[str, Any] = SD15,
    dtype: torch.dtype = torch.float16,
    vae: Mapping[str, Any] = VAE,
    text: Mapping[str, Any] = CLIP_L,
) -> dict[str, Tensor]:
    """Returns a single-file checkpoint with the original names, including a full-size VAE and CLIP."""
    tensors = {
        f"model.diffusion_model.{name}": tensor
        for name, tensor in native_unet(dict(weights(unet_shapes(unet), seed, dtype))).items()
    }
    for name, tensor in weights(vae_shapes(vae), seed + 1, dtype):
        native = native_vae_name(name)
        # The original code writes the VAE's attention as 1 x 1 convolutions.
        matrix = ".mid.attn_1." in native and tensor.ndim == 2
        tensors[f"first_stage_model.{native}"] = tensor[..., None, None] if matrix else tensor
    tensors.update(
        (f"cond_stage_model.transformer.{name}", tensor)
        for name, tensor in weights(text_shapes(text), seed + 2, dtype)
    )
    return tensors


def write_folder(
    folder: Path,
    seed: int,
    unet: Mapping[str, Any] = SMALL_SD15,
    vae: Mapping[str, Any] = SMALL_VAE,
    text: Mapping[str, Any] = SMALL_CLIP,
    dtype: torch.dtype = torch.float32,
    scheduler: Mapping[str, Any] = SCHEDULER,
) -> Path:
    """Writes a diffusers folder without a tokenizer, by default SD1.5's layout with few channels."""
    from safetensors.torch import save_file

    parts: Iterable[tuple[str, str, Mapping[str, Any], Shapes]] = (
        (
            "unet",
            "diffusion_pytorch_model",
            {"_class_name": "UNet2DConditionModel", **unet},
            unet_shapes(unet),
        ),
        ("vae", "diffusion_pytorch_model", {"_class_name": "AutoencoderKL", **vae}, vae_shapes(vae)),
        ("text_encoder", "model", {"architectures": ["CLIPTextModel"], **text}, text_shapes(text)),
    )
    for offset, (part, stem, config, shapes) in enumerate(parts):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
        save_file(dict(weights(shapes, seed + offset, dtype)), folder / part / f"{stem}.safetensors")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def write_tokenizer(folder: Path) -> Path:
    """Writes CLIP's tokenizer as in a diffusers folder."""
    from instructbrush.core.models.tokenizer import clip_tokenizer

    clip_tokenizer().save_pretrained(str(folder))
    return folder


def write_hollow(path: Path, shapes: Shapes, dtype: str = "F16") -> Path:
    """Writes a valid safetensors file of zeros as a sparse file, which takes almost no space on the disk."""
    size = {"F16": 2, "F32": 4}[dtype]
    header = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    return path
