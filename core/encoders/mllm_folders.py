"""Checks the folders of vision-language models, and reads how their weights are stored."""

import hashlib
import json
from collections.abc import Container, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..models.builtin import resolved, title_of
from ..models.hub_folders import model_folder
from ..models.pretrained import PROCESSOR_FILES, TOKENIZER_FILES, PretrainedFolder
from ..models.weights import fingerprint, folder_weights, read_config, read_json

PUBLIC = "llava-hf/llava-1.5-7b-hf"
FILES = (
    "config.json, model.safetensors (or its numbered parts), preprocessor_config.json, tokenizer.json, "
    "tokenizer_config.json, chat_template.json"
)

_FINGERPRINTED = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def mllm_source(folder: Path) -> PretrainedFolder:
    """Returns the folder of a vision-language model, see ``resolved``."""
    folder = resolved(folder)
    return PretrainedFolder("MLLM", title_of(folder), folder, PUBLIC, FILES)


def check_folder(folder: Path) -> str:
    """Checks file names, headers and settings of a model's folder without loading it.

    Returns:
        The ``model_type`` in its config.json.

    Raises:
        ModelError: the folder cannot be loaded; the message names it and tells what belongs there.
    """
    source = mllm_source(folder)
    else_says = "transformers does not know as a model that reads images and words"
    config = source.check(_known_types(), else_says, PROCESSOR_FILES, TOKENIZER_FILES)
    method = str(_quantization(config).get("quant_method"))
    if "bitsandbytes" in method and find_spec("bitsandbytes") is None:
        raise ModelError(
            f"{source.title}: its weights are quantized with bitsandbytes, which is not installed. "
            "Run: pip install bitsandbytes. Or get the model in fp16 or bf16."
        )
    return str(config["model_type"])


def stored_bits(folder: Path) -> int | None:
    """Returns the number of bits that a folder's weights are quantized to, or None if they are not quantized.

    Quantized weights stay on the device that they are loaded onto.
    """
    settings = _quantization(read_config(model_folder(folder) / "config.json"))
    if not settings:
        return None
    return 4 if settings.get("load_in_4bit") or settings.get("bits") == 4 else 8


def stored_dtype(folder: Path) -> torch.dtype:
    """Returns the dtype of the weights according to config.json; fp16 (as in LLaVA-1.5) if it states none."""
    config = read_config(model_folder(folder) / "config.json")
    text_config: Any = config.get("text_config")
    tables = [config, text_config] if isinstance(text_config, dict) else [config]
    for table in tables:
        for key in ("dtype", "torch_dtype"):
            if str(table.get(key)) in _DTYPES:
                return _DTYPES[str(table.get(key))]
    return torch.float16


def folder_fingerprint(folder: Path) -> str:
    """Returns a hash of the weights and settings in a folder, independent of the dtype they are loaded in."""
    digest = hashlib.sha256(fingerprint(dict(folder_weights(folder, ("model",)).tensors())).encode())
    for name in _FINGERPRINTED:
        if (folder / name).is_file():
            digest.update(json.dumps(read_json(folder / name), sort_keys=True).encode())
    return digest.hexdigest()


def check_bits(bits: int | None, name: str, kind: str = "MLLM") -> int | None:
    """Checks the bits that weights will be quantized to, and returns them.

    Args:
        bits: the bits.
        name: of the model, for messages.
        kind: of the model, for messages.

    Raises:
        ModelError: ``bits`` is not 8, 4 or None, or bitsandbytes is not installed.
    """
    if bits not in (None, 4, 8):
        raise ModelError(
            f"{kind} '{name}': weights of {bits} bits are not supported. Choose 8 or 4, or none."
        )
    if bits and find_spec("bitsandbytes") is None:
        raise ModelError(
            f"{kind} '{name}': {bits} bits need the package bitsandbytes, which is not installed. "
            "Run: pip install bitsandbytes. Or choose fp16."
        )
    return bits


def _quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    settings = config.get("quantization_config")
    return settings if isinstance(settings, dict) else {}


def _known_types() -> Container[str]:
    from transformers.models.auto import modeling_auto

    return modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
