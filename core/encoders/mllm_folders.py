"""Checks the folders of vision-language models, and reads how their weights are stored."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..models.builtin import resolved, title_of
from ..models.hub_folders import model_folder
from ..models.weights import fingerprint, folder_weights, read_config, read_json

PUBLIC = "llava-hf/llava-1.5-7b-hf"
FILES = (
    "config.json, model.safetensors (or its numbered parts), preprocessor_config.json, tokenizer.json, "
    "tokenizer_config.json, chat_template.json"
)

# Sets of files, one of which must exist.
_PROCESSOR_FILES = (("preprocessor_config.json",), ("processor_config.json",))
_TOKENIZER_FILES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_FINGERPRINTED = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def check_folder(folder: Path) -> str:
    """Checks file names, headers and settings of a model's folder without loading it.

    Returns:
        The ``model_type`` in its config.json.

    Raises:
        ModelError: the folder cannot be loaded; the message names it and tells what belongs there.
    """
    folder = resolved(folder)
    here = f"MLLM '{title_of(folder)}'"
    advice = (
        f"Put {PUBLIC}, or another vision-language model, into {folder}: {FILES}. "
        "Nothing is downloaded automatically."
    )
    if not folder.is_dir():
        raise ModelError(f"{here}: there is no folder {folder}. {advice}")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{here}: config.json is missing. {advice}")
    config = read_config(folder / "config.json")
    model_type = str(config.get("model_type"))[:80]
    if model_type not in _known_types():
        raise ModelError(
            f"{here}: its config.json says '{model_type}', which transformers does not know as a model that "
            f"reads images and words. {advice}"
        )
    for sets in (_PROCESSOR_FILES, _TOKENIZER_FILES):
        if not any(all((folder / name).is_file() for name in names) for names in sets):
            alternatives = " or ".join(" and ".join(names) for names in sets)
            raise ModelError(f"{here}: {alternatives} is missing. {advice}")
    # Raises for weights that are missing, pickled, truncated or damaged.
    folder_weights(folder, ("model",))
    method = str(_quantization(config).get("quant_method"))
    if "bitsandbytes" in method and find_spec("bitsandbytes") is None:
        raise ModelError(
            f"{here}: its weights are quantized with bitsandbytes, which is not installed. "
            "Run: pip install bitsandbytes. Or get the model in fp16 or bf16."
        )
    return model_type


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


def _known_types() -> Sequence[str]:
    from transformers.models.auto import modeling_auto

    return list(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
