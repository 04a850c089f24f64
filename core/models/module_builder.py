"""Builds the modules of a model from a diffusers folder or a single file.

Modules are built on the meta device and then filled with weights.

diffusers' own ``from_single_file`` asks a server for configurations, and its ``from_pretrained`` also reads
pickles. Here every configuration is local, only safetensors are read, and no weight is in memory twice. The
key conversions of single files are diffusers' own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError
from .builtin import part_folder
from .families import ModelDescription
from .weights import Weights, fill, folder_weights, read_config
from .widening import widened_tensors

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = {"sd15": "cond_stage_model.transformer.", "sd21": "cond_stage_model.model."}

_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
}
UNET_CONFIG: dict[str, dict[str, Any]] = {
    "sd15": {**_UNET, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        **_UNET,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
}
VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
TEXT_CONFIG: dict[str, dict[str, Any]] = {
    "sd15": {
        **_TEXT,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
    },
    # 23 of OpenCLIP ViT-H's 24 layers: SD2 uses the penultimate one's states.
    "sd21": {
        **_TEXT,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
}

# Lies beside the tower's other weights.
_PROJECTION = "text_projection.weight"


class ModuleBuilder:
    """Builds the modules of one model, with weights on ``device`` in ``dtype``."""

    def __init__(self, title: str, device: torch.device, dtype: torch.dtype) -> None:
        self.title = title
        self.device = device
        self.dtype = dtype

    def unet(self, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> UNet2DConditionModel:
        """Builds a UNet from a diffusers configuration and weights under diffusers' names."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return self._filled(UNet2DConditionModel.from_config, config, weights, "UNet")

    def vae(
        self, config: dict[str, Any], weights: dict[str, torch.Tensor]
    ) -> AutoencoderKL | AutoencoderTiny:
        """Builds the VAE that ``_class_name`` in the configuration names."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        kind = config.get("_class_name", "AutoencoderKL")
        if kind not in ("AutoencoderKL", "AutoencoderTiny"):
            raise ModelError(
                f"{self.title}: a VAE of the kind {kind} is not supported. Choose a model with AutoencoderKL "
                "or AutoencoderTiny."
            )
        if kind == "AutoencoderKL":
            return self._filled(AutoencoderKL.from_config, config, weights, "VAE")
        # diffusers writes this setting of AutoencoderTiny but does not accept it.
        accepted = {key: value for key, value in config.items() if key != "block_out_channels"}
        return self._filled(AutoencoderTiny.from_config, accepted, weights, "VAE")

    def text_encoder(
        self, config: dict[str, Any], weights: dict[str, torch.Tensor], projects: bool = False
    ) -> Any:
        """Builds CLIP's text tower from weights whose names may start with ``text_model.``.

        Args:
            config: of the tower or of a whole CLIP.
            weights: its weights.
            projects: with the projection to the space of images, as SDXL's second encoder has it.

        Returns:
            A ``CLIPTextModel``, or a ``CLIPTextModelWithProjection``.
        """
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        # The configuration of a whole CLIP holds the text tower's.
        text = config.get("text_config") or config
        bare = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
        ignored = ("architectures", "dtype", "torch_dtype")

        def build(text: dict[str, Any]) -> Any:
            accepted = {key: value for key, value in text.items() if key not in ignored}
            kind = CLIPTextModelWithProjection if projects else CLIPTextModel
            return kind(CLIPTextConfig(**accepted))

        # transformers < 5.6 keeps the tower under `text_model`.
        with torch.device("meta"):
            one_layer = build({**text, "num_hidden_layers": 1})
        nested = any(name.startswith("text_model.") for name in one_layer.state_dict())
        named = {f"text_model.{name}": tensor for name, tensor in bare.items()} if nested else dict(bare)
        if projects and _PROJECTION in bare:
            named[_PROJECTION] = bare[_PROJECTION]
        return self._filled(build, text, named, "Text encoder")

    def _filled(self, build: Any, config: dict[str, Any], weights: dict[str, torch.Tensor], part: str) -> Any:
        try:
            with torch.device("meta"):
                module = build(config)
        except Exception as error:  # A wrong configuration can make a constructor raise anything.
            reason = str(error)[:300] or type(error).__name__
            raise ModelError(
                f"{self.title}: the configuration of its {part} cannot be used ({reason}). Download it again."
            ) from error
        fill(module, weights, f"{self.title}, {part}", self.device, self.dtype)
        return module.eval().requires_grad_(False)


def build_single_file(
    builder: ModuleBuilder, weights: Weights, description: ModelDescription
) -> tuple[UNet2DConditionModel, AutoencoderKL | AutoencoderTiny, CLIPTextModel]:
    """Builds UNet, VAE and text encoder from an SD1.5 or SD2.1 single-file checkpoint.

    Raises:
        ModelError: only ComfyUI reads single files of the family, the file lacks the VAE or the text encoder,
            or a weight is missing or of another shape.
    """
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    family = description.family
    if family.name not in TEXT_PREFIX:
        raise ModelError(
            f"{builder.title}: single files of the {family.name} family are read in ComfyUI only. Give the "
            "model as a diffusers folder."
        )
    prefix = TEXT_PREFIX[family.name]
    for needed, what in ((VAE_PREFIX, "VAE"), (prefix, "text encoder")):
        if not weights.under(needed).shapes:
            raise ModelError(
                f"{builder.title}: it holds no {what} (no tensors under {needed}). Use a full checkpoint or "
                "a diffusers folder, not the UNet alone."
            )
    unet_config = {**UNET_CONFIG[family.name], "in_channels": description.in_channels}
    # One part after another, so that the mapped tensors of only one part are in use at a time.
    unet = builder.unet(unet_config, convert_ldm_unet_checkpoint(_under(weights, UNET_PREFIX), unet_config))
    vae = builder.vae(VAE_CONFIG, convert_ldm_vae_checkpoint(_under(weights, VAE_PREFIX), VAE_CONFIG))
    text_weights = _under(weights, prefix)
    text_config = TEXT_CONFIG[family.name]
    if family.name == "sd15":
        text = builder.text_encoder(text_config, convert_ldm_clip_checkpoint(text_weights))
    else:
        text = builder.text_encoder(
            text_config, open_clip_text_weights(text_weights, prefix, text_config["hidden_size"])
        )
    return unet, vae, text


def _under(weights: Weights, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in weights.under(prefix).tensors()}


def open_clip_text_weights(
    weights: dict[str, torch.Tensor], prefix: str, width: int
) -> dict[str, torch.Tensor]:
    """Renames OpenCLIP's text tower to CLIP's names.

    The stacked attention projection [3 x width, ...] becomes three views.
    """
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

    table = DIFFUSERS_TO_LDM_MAPPING["openclip"]
    named = {new: weights[prefix + old] for new, old in table["layers"].items() if prefix + old in weights}
    for key, tensor in weights.items():
        name = key.removeprefix(prefix + "transformer.")
        if name == key:
            continue
        for new, old in table["transformer"].items():
            name = name.replace(old, new)
        if name.endswith(("in_proj_weight", "in_proj_bias")):
            stem, _, kind = name.rpartition(".in_proj_")
            for part, rows in zip("qkv", tensor.split(width), strict=True):
                named[f"{stem}.{part}_proj.{kind}"] = rows
        else:
            named[name] = tensor
    return named


def build_folder(
    builder: ModuleBuilder, folder: Path, unet_weights: Weights, in_channels: int | None = None
) -> tuple[UNet2DConditionModel, AutoencoderKL | AutoencoderTiny, CLIPTextModel]:
    """Builds UNet, VAE and text encoder from a diffusers folder. Widens the UNet to ``in_channels`` if given.

    Raises:
        ModelError: a part is missing, or does not fit its configuration.
    """
    unet_config = read_config(folder / "unet" / "config.json")
    unet_tensors = dict(unet_weights.tensors())
    if in_channels is not None:
        unet_config = {**unet_config, "in_channels": in_channels}
        unet_tensors = widened_tensors(unet_tensors, in_channels)
    unet = builder.unet(unet_config, unet_tensors)
    return unet, folder_vae(builder, folder), folder_text_encoder(builder, folder)


def folder_vae(builder: ModuleBuilder, folder: Path) -> AutoencoderKL | AutoencoderTiny:
    """Builds the VAE of a diffusers folder. Raises ``ModelError`` as ``build_folder``."""
    part = part_folder(folder, "vae")
    config = read_config(part / "config.json")
    tensors = dict(folder_weights(part, ("diffusion_pytorch_model",)).tensors())
    return builder.vae(config, _current_vae_names(tensors))


def folder_text_encoder(
    builder: ModuleBuilder, folder: Path, name: str = "text_encoder", projects: bool = False
) -> Any:
    """Builds a text encoder of a diffusers folder, see ``ModuleBuilder.text_encoder``.

    Raises ``ModelError`` as ``build_folder``.
    """
    part = part_folder(folder, name)
    config = read_config(part / "config.json")
    return builder.text_encoder(config, dict(folder_weights(part, ("model",)).tensors()), projects)


def _current_vae_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames the VAE's attention in older diffusers files such as timbrooks/instruct-pix2pix."""
    names = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    renamed = {}
    for name, tensor in weights.items():
        for old, new in names.items():
            if ".attentions." in name and old in name:
                name = name.replace(old, new)
                tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        renamed[name] = tensor
    return renamed
