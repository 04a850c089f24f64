"""Types of ComfyUI's sockets MODEL, CLIP and VAE, for annotations."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

Model = ModelPatcher
Clip = CLIP
Vae = VAE
