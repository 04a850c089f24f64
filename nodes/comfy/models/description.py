"""Describes a ComfyUI MODEL for core: family, sites, fingerprint."""

from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

from comfy.model_base import BaseModel, ModelType
from comfy.model_patcher import ModelPatcher, get_key_weight
from torch import Tensor

from ....core.editing.loading import describe as describe_file
from ....core.errors import ModelError
from ....core.models.builtin import TITLES
from ....core.models.families import ModelDescription, describe_unet
from .plain_weights import dequantized

_UNET = "diffusion_model."
_PREDICTION = {ModelType.EPS: "epsilon", ModelType.V_PREDICTION: "v_prediction"}

# Cached by the loaded model, which many patchers may share, because a fingerprint reads weights.
_cache: WeakKeyDictionary[BaseModel, ModelDescription] = WeakKeyDictionary()


def describe(model: ModelPatcher) -> ModelDescription:
    """Describes a MODEL by its original weights, without LoRAs and other patches.

    Raises:
        ModelError: it is not an editing model of a known family.
    """
    base = model.model
    if base in _cache:
        return _cache[base]
    shapes = {key: tuple(value.shape) for key, value in base.diffusion_model.state_dict().items()}
    edm = base.model_type == ModelType.V_PREDICTION_EDM
    description = describe_unet(
        shapes,
        lambda key, rows: _own_weight(model, _UNET + key)[:rows],
        edm,
        None if edm else _PREDICTION.get(base.model_type, base.model_type.name.lower()),
        title_of(model),
        _heads(base),
    )
    fingerprint = _file_fingerprint(model) or description.fingerprint
    _cache[base] = replace(description, fingerprint=fingerprint)
    return _cache[base]


def title_of(model: ModelPatcher) -> str:
    """Returns the name of the file or folder of a MODEL without suffix, or its class if that is unknown."""
    file = _file_of(model)
    return type(model.model).__name__ if file is None else TITLES.get(file, file.stem)


def _file_fingerprint(model: ModelPatcher) -> str | None:
    """Returns the file's fingerprint if ComfyUI keeps the model in 8 bits (``--fp8_e4m3fn-unet``).

    The weights in memory then differ from the file's.
    """
    file = _file_of(model)
    parameters = model.model.diffusion_model.parameters()
    if file is None or all(parameter.dtype.itemsize > 1 for parameter in parameters):
        return None
    try:
        return describe_file(file).fingerprint
    except ModelError:  # core does not read files of this kind
        return None


def _file_of(model: ModelPatcher) -> Path | None:
    """Returns the file or folder of a MODEL if its loader recorded it."""
    arguments = model.cached_patcher_init[1] if model.cached_patcher_init else ()
    return Path(arguments[0]) if arguments and isinstance(arguments[0], str) else None


def _own_weight(model: ModelPatcher, key: str) -> Tensor:
    """Returns a weight without a merged LoRA; ComfyUI keeps a backup of it."""
    for backup in (model.hook_backup, model.backup):
        if key in backup:
            return dequantized(backup[key][0])  # the first entry is the weight, in both kinds of backup
    return dequantized(get_key_weight(model.model, key)[0])


def _heads(base: BaseModel) -> int | None:
    heads = base.model_config.unet_config.get("num_heads", -1)
    return heads if heads > 0 else None
