"""Loads CLIP models by name: the pocket CLIP, or open_clip architectures with weights from a local file."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..models.weights import Weights, read_header
from .clip import POCKET_NAME, OpenClipModel
from .open_clip_weights import fill_clip, open_clip_names
from .pocket_clip import pocket_clip
from .preprocessing import Preprocessing

if TYPE_CHECKING:
    from open_clip.model import CLIP

# The papers use the first one for directions and the second one for phrases and captions.
KNOWN_NAMES = ("ViT-L-14/openai", "ViT-H-14/laion2b_s32b_b79k")

# Settings of a plain causal text encoder with CLIP's vocabulary. Architectures with others are rejected.
_PLAIN_TEXT_SETTINGS = {
    "context_length",
    "vocab_size",
    "width",
    "heads",
    "layers",
    "mlp_ratio",
    "ls_init_value",
}


def load_clip(
    name: str | None = None, folder: Path | None = None, device: torch.device | str = "cpu"
) -> OpenClipModel:
    """Loads a CLIP by name.

    Args:
        name: None or ``pocket`` for the pocket CLIP; otherwise see ``open_clip_model``.
        folder: the folder with the weights; see ``clip_file``.
        device: where the model runs.

    Raises:
        ModelError: the file is missing, or see ``open_clip_model``.
    """
    if name is None or name == POCKET_NAME:
        return pocket_clip(device)
    return open_clip_model(name, clip_file(name, folder), device)


def open_clip_model(name: str, pretrained_file: Path, device: torch.device | str = "cpu") -> OpenClipModel:
    """Loads an open_clip model with weights from a local file. Downloads nothing.

    Args:
        name: architecture and weights as open_clip lists them, such as ``ViT-L-14/openai``. The name of the
            weights decides about QuickGELU and preprocessing.
        pretrained_file: a ``.safetensors`` file in the layout of open_clip or of transformers' ``CLIPModel``.
        device: where the model runs.

    Raises:
        ModelError: the architecture is unknown or not a plain CLIP, or the file is missing, damaged, pickled
            or belongs to another architecture.
    """
    from open_clip.model import CLIP
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.tokenizer import SimpleTokenizer

    architecture, tag = _split_name(name)
    config = _architecture_config(name, architecture)
    pretrained = get_pretrained_cfg(architecture, tag)
    weights = Weights([read_header(pretrained_file)])
    with torch.device("meta"):
        module = CLIP(
            config["embed_dim"],
            config["vision_cfg"],
            config["text_cfg"],
            bool(config.get("quick_gelu") or pretrained.get("quick_gelu")),
        )
    preprocessing = _preprocessing(name, architecture, module, pretrained)
    tensors = _with_open_clip_names(dict(weights.tensors()), pretrained_file)
    fill_clip(module, tensors, f"{pretrained_file.name} as {architecture}", torch.device(device))
    tokenizer = SimpleTokenizer(context_length=int(module.context_length))
    ends = (tokenizer.sot_token_id, tokenizer.eot_token_id)
    return OpenClipModel(name, module, preprocessing, tokenizer, ends)


def clip_file(name: str, folder: Path | None) -> Path:
    """Returns the weights of a named model: ``ViT-L-14-openai.safetensors`` for ``ViT-L-14/openai``.

    Raises:
        ModelError: the file is missing; the message tells which file is needed.
    """
    architecture, tag = _split_name(name)
    file = f"{architecture}-{tag}.safetensors"
    if folder is None:
        raise ModelError(
            f"CLIP '{name}': no folder was given to look for {file} in. Give one, or use the pocket CLIP."
        )
    path = Path(folder) / file
    if not path.is_file():
        raise ModelError(
            f"CLIP '{name}': {file} is not in {folder}. Put the model's .safetensors file (open_clip's, or "
            "the model.safetensors of transformers) there under this name, or choose the pocket CLIP. "
            "Nothing is downloaded automatically."
        )
    return path


def clip_names(folder: Path) -> list[str]:
    """Returns the names of the models in a folder, for ``load_clip``. Ignores files with other names."""
    # Reads open_clip's folder, because importing open_clip takes seconds.
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations or not folder.is_dir():
        return []
    configs = Path(spec.submodule_search_locations[0]) / "model_configs"
    architectures = sorted((path.stem for path in configs.glob("*.json")), key=len, reverse=True)
    names = []
    for path in sorted(folder.glob("*.safetensors")):
        architecture = next((known for known in architectures if path.stem.startswith(f"{known}-")), None)
        if architecture:
            names.append(f"{architecture}/{path.stem[len(architecture) + 1 :]}")
    return names


def _split_name(name: str) -> tuple[str, str]:
    architecture, _, tag = name.partition("/")
    if not re.fullmatch(r"[\w.-]+", architecture) or not re.fullmatch(r"[\w.-]+", tag):
        raise ModelError(
            f"CLIP '{name}': a name is architecture/weights, such as {KNOWN_NAMES[0]}, or pocket."
        )
    return architecture, tag


def _architecture_config(name: str, architecture: str) -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config(architecture)
    if config is None:
        raise ModelError(
            f"CLIP '{name}': open_clip knows no architecture '{architecture}'. "
            f"Names are like {KNOWN_NAMES[0]}: architecture/weights."
        )
    unknown_settings = set(config["text_cfg"]) - _PLAIN_TEXT_SETTINGS
    if config.get("custom_text") or unknown_settings or "siglip" in architecture.lower():
        raise ModelError(
            f"CLIP '{name}': {architecture} has a text encoder of another kind, which is not supported. "
            f"Choose a plain CLIP such as {KNOWN_NAMES[0]}."
        )
    return config


def _preprocessing(
    name: str, architecture: str, module: "CLIP", pretrained: Mapping[str, Any]
) -> Preprocessing:
    image_size: Any = module.visual.image_size
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    height, width = image_size
    # Buffers that are neither in the file nor created by fill_clip would stay empty.
    unknown_buffers = {key for key, _ in module.named_buffers()} - set(module.state_dict()) - {"attn_mask"}
    if unknown_buffers or height != width or pretrained.get("resize_mode") == "longest":
        raise ModelError(
            f"CLIP '{name}': the image encoder of {architecture} is of a kind that is not supported. "
            f"Choose another such as {KNOWN_NAMES[0]}."
        )
    fields = ("mean", "std", "interpolation", "resize_mode")
    settings = {key: pretrained[key] for key in fields if pretrained.get(key)}
    return Preprocessing((height, width), **settings)


def _with_open_clip_names(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    if "text_model.embeddings.token_embedding.weight" not in tensors:
        return tensors
    try:
        return open_clip_names(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{file.name}: its weights do not match ({error}). "
            "The file is damaged or of another kind. Download it again."
        ) from error
