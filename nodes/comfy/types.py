"""Types of ComfyUI's objects, for annotations only."""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

Model: TypeAlias = "ModelPatcher"
Clip: TypeAlias = "CLIP"
Vae: TypeAlias = "VAE"
