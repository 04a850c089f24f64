"""DINO models, self-supervised image encoders for evaluation, loaded from local folders."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, first_line
from ..models.hub_folders import model_folder, model_title
from ..models.weights import fingerprint, folder_weights, read_config
from .preprocessing import Preprocessing

HINT = (
    "Give the folder of a DINO or DINOv2 in the layout of transformers, with config.json and "
    "model.safetensors: the papers use facebook/dino-vits16. Nothing is downloaded automatically."
)
_MODEL_TYPES = ("vit", "dinov2", "dinov2_with_registers")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_SIDE = 224


class DinoModel:
    """A frozen DINO in fp32. The feature of an image is the class token after the last norm.

    Prepares images like MagicBrush's evaluation: scales the shorter side to 256 (bicubic), crops the central
    224 x 224, and normalizes with ImageNet's mean and deviation. A ViT of another size scales in proportion.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``. Reads only safetensors and runs no code.
        device: where the model runs.

    Raises:
        ModelError: the folder is missing, incomplete, damaged, pickled or not a DINO; the message tells what
            is needed.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        folder = model_folder(folder)
        if not (folder / "config.json").is_file():
            raise ModelError(f"DINO: there is no config.json in '{folder}'. {HINT}")
        config = read_config(folder / "config.json")
        model_type = config.get("model_type")
        if not isinstance(model_type, str) or model_type not in _MODEL_TYPES:
            raise ModelError(
                f"DINO: '{model_title(folder)}' holds a model of type '{model_type}', "
                f"one of {', '.join(_MODEL_TYPES)} is needed. {HINT}"
            )
        # Raises for weights that are missing, pickled, truncated or damaged.
        folder_weights(folder, ("model",))
        self.name = model_title(folder)
        self.device = torch.device(device)
        self._network = _load(folder, model_type).eval().requires_grad_(False).float().to(self.device)
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


def _load(folder: Path, model_type: str) -> Any:
    from transformers import AutoModel

    # DINO has no pooler: published ViT files lack one, or have an untrained one.
    options = {"add_pooling_layer": False} if model_type == "vit" else {}
    try:
        network, report = AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # unknown configurations make transformers fail in any way
        raise ModelError(
            f"DINO: '{model_title(folder)}' cannot be loaded ({first_line(error)}). {HINT}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"DINO: the weight {missing[0]} is missing in '{model_title(folder)}' ({len(missing)} in all). "
            f"{HINT}"
        )
    return network
