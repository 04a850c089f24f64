"""DINO models, self-supervised image encoders for evaluation, loaded from local folders."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.hub_folders import model_folder, model_title
from ..models.pretrained import PretrainedFolder
from ..models.weights import fingerprint
from .preprocessing import Preprocessing

# The papers use it.
_PUBLIC = "facebook/dino-vits16"
_MODEL_TYPES = ("vit", "dinov2", "dinov2_with_registers")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_SIDE = 224


class DinoModel:
    """A frozen DINO in fp32. The feature of an image is the class token after the last norm.

    Prepares images like MagicBrush's evaluation: scales the shorter side to 256 (bicubic), crops the central
    224 x 224, and normalizes with ImageNet's mean and deviation. A ViT of another size scales in proportion.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``.
        device: where the model runs.

    Raises:
        ModelError: the folder is missing, incomplete, damaged, pickled or not a DINO; the message tells what
            is needed.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        from transformers import AutoModel

        folder = model_folder(folder)
        self.name = model_title(folder)
        source = PretrainedFolder("DINO", self.name, folder, _PUBLIC, "config.json, model.safetensors")
        else_says = f"is not a DINO ({', '.join(_MODEL_TYPES)})"
        model_type = source.check(_MODEL_TYPES, else_says)["model_type"]
        # DINO has no pooler: published ViT files lack one, or have an untrained one.
        options = {"add_pooling_layer": False} if model_type == "vit" else {}
        self.device = torch.device(device)
        network = source.load_network(AutoModel.from_pretrained, **options)
        self._network: Any = network.float().to(self.device)
        side = int(self._network.config.image_size) if model_type == "vit" else _SIDE
        self.preprocessing = Preprocessing(
            (side, side), _IMAGENET_MEAN, _IMAGENET_STD, resize=side * 256 // 224
        )
        self.fingerprint = fingerprint(self._network.state_dict())

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encodes images [B, H, W, 3] in 0..1 of any size as [B, D], not normalized.

        Raises:
            ModelError: the images are not [B, H, W, 3].
        """
        return self._network(self.preprocessing(images.cpu()).to(self.device)).last_hidden_state[:, 0]
