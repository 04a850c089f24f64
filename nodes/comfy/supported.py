"""Two kinds of model that ComfyUI's detection does not know: the pocket editor, and SD2.1 with 8 input channels.

They are entered in the list that ComfyUI goes through when it looks at a checkpoint, so that its own loaders read them as well.
"""

import json
from pathlib import Path
from typing import Any

import torch
from comfy import latent_formats, model_base, sd1_clip, supported_models, supported_models_base

POCKET_FOLDER = Path(__file__).parents[2] / "core" / "models" / "pocket"
"""The built-in model, a diffusers folder."""


class PocketTokenizer(sd1_clip.SDTokenizer):
    """The pocket editor's small vocabulary; ComfyUI's weights ``(word:1.2)`` and windows work as usual."""

    def __init__(self, embedding_directory: str | list[str] | None = None, tokenizer_data: dict[str, Any] | None = None) -> None:
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
    """What CLIP expects: tokenizers by name, here one."""

    def __init__(self, embedding_directory: str | list[str] | None = None, tokenizer_data: dict[str, Any] | None = None) -> None:
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {}, tokenizer=PocketTokenizer)


class PocketText(sd1_clip.SDClipModel):
    """The pocket editor's text tower: last layer, final norm applied, as ``CLIPTextModel`` returns it."""

    def __init__(self, device: Any = "cpu", dtype: torch.dtype | None = None, model_options: dict[str, Any] | None = None) -> None:
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
        # ComfyUI's text model always makes room for 49408 tokens.
        embeddings = self.transformer.text_model.embeddings
        embeddings.token_embedding = self.operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
        embeddings.token_embedding.requires_grad_(False)


class PocketClip(sd1_clip.SD1ClipModel):
    """What CLIP expects: text towers by name, here one."""

    def __init__(self, device: Any = "cpu", dtype: torch.dtype | None = None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=PocketText)  # type: ignore[arg-type]


class InstructPix2Pix(model_base.IP2P, model_base.BaseModel):
    """A UNet that takes the unscaled image latent after the noisy one; no image is the zero latent."""

    def process_ip2p_image_in(self, image: torch.Tensor) -> torch.Tensor:
        """The image condition as the UNet takes it: unchanged."""
        return image


class Pocket(supported_models.SD15):
    """The built-in editor. Everything but its sizes is Stable Diffusion 1.5's; a ControlNet of its shape is recognised too."""

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

    def get_model(self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None) -> model_base.BaseModel:
        """Build the (still empty) model."""
        return InstructPix2Pix(self, device=device)

    def clip_target(self, state_dict: dict[str, torch.Tensor] | None = None) -> supported_models_base.ClipTarget:
        """Tokenizer and text tower."""
        return supported_models_base.ClipTarget(PocketTokenizers, PocketClip)


class SD21InstructPix2Pix(supported_models.SD20):
    """SD2.1 with 8 input channels (HIVE and others), which ComfyUI takes for an inpainting model."""

    unet_config = {**supported_models.SD20.unet_config, "in_channels": 8}

    def model_type(self, state_dict: dict[str, torch.Tensor], prefix: str = "") -> model_base.ModelType:
        """The checkpoint says when it predicts v, as ComfyUI's own saving does."""
        return model_base.ModelType.V_PREDICTION if f"{prefix}v_pred" in state_dict or "v_pred" in state_dict else model_base.ModelType.EPS

    def get_model(self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None) -> model_base.BaseModel:
        """Build the (still empty) model."""
        return InstructPix2Pix(self, model_type=self.model_type(state_dict, prefix), device=device)


def register() -> None:
    """Enter both in ComfyUI's list, before the models they would be mistaken for. Doing it again changes nothing."""
    known = {model.__name__ for model in supported_models.models}
    for model in (SD21InstructPix2Pix, Pocket):
        if model.__name__ not in known:
            supported_models.models.insert(0, model)


def _text_config() -> dict[str, Any]:
    return json.loads((POCKET_FOLDER / "text_encoder" / "config.json").read_text())
