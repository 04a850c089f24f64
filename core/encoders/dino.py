"""DINO: what images show, learned without words. Only measures; loaded from a local folder in the layout of transformers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..models.hub_folders import model_folder, model_title
from ..models.weights import fingerprint, folder_weights, read_config
from .clip import Preprocessing

HINT = (
    "Give the folder of a DINO or DINOv2 in the layout of transformers, with config.json and model.safetensors: the papers use facebook/dino-vits16. "
    "Nothing is downloaded by itself."
)
_KINDS = ("vit", "dinov2", "dinov2_with_registers")
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDE = 224


class DinoModel:
    """A frozen DINO in fp32. Its feature of an image is the class token after the last norm, as DINO's own hub model gives it.

    Images are prepared as MagicBrush's evaluation does it: shorter side to 256 by bicubic scaling, the middle 224 x 224, ImageNet's mean and
    deviation (in proportion for a ViT of another size).

    Args:
        folder: holds ``config.json`` and ``model.safetensors``. Only safetensors are read, and no code from the folder is run.
        device: where it shall run.

    Raises:
        ModelError: the folder is missing, incomplete, damaged, pickled or no DINO; the message says what belongs there.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        folder = model_folder(folder)
        if not (folder / "config.json").is_file():
            raise ModelError(f"DINO: there is no config.json in '{folder}'. {HINT}")
        config = read_config(folder / "config.json")
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ModelError(
                f"DINO: '{model_title(folder)}' holds a model of type '{kind}', one of {', '.join(_KINDS)} is needed. {HINT}"
            )
        folder_weights(folder, ("model",))  # says what is missing, pickled or cut short
        self.name = model_title(folder)
        self.device = torch.device(device)
        self._network = _load(folder, kind).eval().requires_grad_(False).float().to(self.device)
        side = int(self._network.config.image_size) if kind == "vit" else _SIDE
        self.preprocessing = Preprocessing((side, side), _MEAN, _DEVIATION, resize=side * 256 // 224)
        self.fingerprint = fingerprint(self._network.state_dict())

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..1 of any size -> [B, D], not normalised.

        Raises:
            ModelError: not [B, H, W, 3].
        """
        return self._network(self.preprocessing(images.to(self.device))).last_hidden_state[:, 0]


def _load(folder: Path, kind: str) -> Any:
    from transformers import AutoModel

    # The pooler after the class token is not DINO's: published files of ViTs have none, or one nobody trained.
    options = {"add_pooling_layer": False} if kind == "vit" else {}
    try:
        network, report = AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # A foreign configuration can make transformers fail in any way.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"DINO: '{model_title(folder)}' cannot be loaded ({reason[:300]}). {HINT}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"DINO: the weight {missing[0]} is missing in '{model_title(folder)}' ({len(missing)} in all). {HINT}"
        )
    return network
