"""Adds the pocket editors, SD2.1 with 8 input channels, and UltraEdit's models to ComfyUI's detection.

They are added to the list that ComfyUI searches for a checkpoint, so its own loaders read them too.
"""

import json
from typing import Any

import torch
from comfy import latent_formats, model_base, sd1_clip, supported_models, supported_models_base

from ....core.models.builtin import POCKET_FOLDER
from .base_models import InstructPix2Pix, RegionInstructPix2Pix, RegionSDXL, RegionUltraEdit, UltraEdit


class PocketTokenizer(sd1_clip.SDTokenizer):
    """Tokenizes with the pocket editor's small vocabulary. Weights such as ``(word:1.2)`` work."""

    def __init__(
        self, embedding_directory: str | list[str] | None = None, tokenizer_data: dict[str, Any] | None = None
    ) -> None:
        config = _text_config()
        super().__init__(
            str(POCKET_FOLDER / "tokenizer"),
            max_length=config["max_position_embeddings"],
            embedding_directory=embedding_directory,
            embedding_size=config["hidden_size"],
            embedding_key="clip_l",
            tokenizer_data=tokenizer_data or {},
        )


class PocketTokenizers(sd1_clip.SD1Tokenizer):
    """The wrapper that CLIP expects, with one tokenizer."""

    def __init__(
        self, embedding_directory: str | list[str] | None = None, tokenizer_data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data or {},
            tokenizer=PocketTokenizer,
        )


class PocketText(sd1_clip.SDClipModel):
    """The pocket editor's text tower. Returns the normalized last layer, as ``CLIPTextModel`` does."""

    def __init__(
        self,
        device: Any = "cpu",
        dtype: torch.dtype | None = None,
        model_options: dict[str, Any] | None = None,
    ) -> None:
        config = _text_config()
        start, end = config["bos_token_id"], config["eos_token_id"]
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=config["max_position_embeddings"],
            textmodel_json_config=config,
            special_tokens={"start": start, "end": end, "pad": end},
            return_projected_pooled=False,
            model_options=model_options or {},
        )
        # ComfyUI's text model always has 49408 tokens.
        embeddings = self.transformer.text_model.embeddings
        embeddings.token_embedding = self.operations.Embedding(
            config["vocab_size"], config["hidden_size"], dtype=dtype, device=device
        )
        embeddings.token_embedding.requires_grad_(False)


class PocketClip(sd1_clip.SD1ClipModel):
    """The wrapper that CLIP expects, with one text tower."""

    def __init__(
        self,
        device: Any = "cpu",
        dtype: torch.dtype | None = None,
        model_options: dict[str, Any] | None = None,
    ) -> None:
        tower: Any = PocketText
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=tower)


class Pocket(supported_models.SD15):
    """The built-in editor, and ControlNets of its shape: Stable Diffusion 1.5 with other sizes."""

    unet_config = {
        "context_dim": 128,
        "model_channels": 64,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}
    latent_format = latent_formats.LatentFormat
    # A few million weights: half precision would save nothing and cost fine detail.
    supported_inference_dtypes = [torch.float32]

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None
    ) -> model_base.BaseModel:
        """Builds the model without weights."""
        return InstructPix2Pix(self, device=device)

    def clip_target(
        self, state_dict: dict[str, torch.Tensor] | None = None
    ) -> supported_models_base.ClipTarget:
        """Returns the classes of tokenizer and text tower."""
        return supported_models_base.ClipTarget(PocketTokenizers, PocketClip)


class SD21InstructPix2Pix(supported_models.SD20):
    """SD2.1 with 8 input channels (HIVE and others), which ComfyUI takes for an inpainting model."""

    unet_config = {**supported_models.SD20.unet_config, "in_channels": 8}

    def model_type(self, state_dict: dict[str, torch.Tensor], prefix: str = "") -> model_base.ModelType:
        """Reads the prediction type from the marker that ComfyUI saves in checkpoints."""
        if f"{prefix}v_pred" in state_dict or "v_pred" in state_dict:
            return model_base.ModelType.V_PREDICTION
        return model_base.ModelType.EPS

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None
    ) -> model_base.BaseModel:
        """Builds the model without weights."""
        return InstructPix2Pix(self, model_type=self.model_type(state_dict, prefix), device=device)


class PocketRegion(Pocket):
    """The built-in region editor, which reads a mask."""

    unet_config = {**Pocket.unet_config, "in_channels": 12}

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None
    ) -> model_base.BaseModel:
        """Builds the model without weights."""
        return RegionInstructPix2Pix(self, device=device)


class SD15Region(supported_models.SD15_instructpix2pix):
    """SD1.5 with 12 input channels (UltraEdit)."""

    unet_config = {**supported_models.SD15_instructpix2pix.unet_config, "in_channels": 12}

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None
    ) -> model_base.BaseModel:
        """Builds the model without weights."""
        return RegionInstructPix2Pix(self, device=device)


class SD21Region(SD21InstructPix2Pix):
    """SD2.1 with 12 input channels."""

    unet_config = {**SD21InstructPix2Pix.unet_config, "in_channels": 12}

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None
    ) -> model_base.BaseModel:
        """Builds the model without weights."""
        return RegionInstructPix2Pix(self, model_type=self.model_type(state_dict, prefix), device=device)


class SDXLRegion(supported_models.SDXL_instructpix2pix):
    """SDXL with 12 input channels."""

    unet_config = {**supported_models.SDXL_instructpix2pix.unet_config, "in_channels": 12}

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None
    ) -> model_base.BaseModel:
        """Builds the model without weights."""
        return RegionSDXL(self, model_type=self.model_type(state_dict, prefix), device=device)


class UnshiftedSD3(latent_formats.SD3):
    """Stable Diffusion 3's latents, scaled but not shifted, as UltraEdit was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.shift_factor = 0.0


class UltraEditSD3(supported_models.SD3):
    """UltraEdit's Stable Diffusion 3 without a mask."""

    unet_config = {**supported_models.SD3.unet_config, "in_channels": 32}
    latent_format = UnshiftedSD3

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None
    ) -> model_base.BaseModel:
        """Builds the model without weights."""
        return UltraEdit(self, device=device)


class UltraEditSD3Region(UltraEditSD3):
    """UltraEdit's Stable Diffusion 3 that reads a mask."""

    unet_config = {**supported_models.SD3.unet_config, "in_channels": 48}

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None
    ) -> model_base.BaseModel:
        """Builds the model without weights."""
        return RegionUltraEdit(self, device=device)


# Each is inserted before the last one, and ComfyUI takes the first match, so the most specific kinds come
# last.
_MODELS = (
    SD21InstructPix2Pix,
    Pocket,
    PocketRegion,
    SD15Region,
    SD21Region,
    SDXLRegion,
    UltraEditSD3,
    UltraEditSD3Region,
)


def register() -> None:
    """Puts all models at the start of ComfyUI's list, before those that they look like; once only."""
    registered = {model.__name__ for model in supported_models.models}
    for model in _MODELS:
        if model.__name__ not in registered:
            supported_models.models.insert(0, model)


def _text_config() -> dict[str, Any]:
    return json.loads((POCKET_FOLDER / "text_encoder" / "config.json").read_text())
