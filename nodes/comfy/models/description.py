"""What core needs to know of a ComfyUI MODEL: its family, its sites, its fingerprint."""

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

# A fingerprint reads weights, so it is taken once for each loaded model, however many patchers share it.
_known: WeakKeyDictionary[BaseModel, ModelDescription] = WeakKeyDictionary()


def describe(model: ModelPatcher) -> ModelDescription:
    """Describe a MODEL by its own weights, whatever LoRA or other patches it carries.

    Raises:
        ModelError: it is no editing model of a known family.
    """
    base = model.model
    found = _known.get(base)
    if found is None:
        shapes = {key: tuple(value.shape) for key, value in base.diffusion_model.state_dict().items()}
        edm = base.model_type == ModelType.V_PREDICTION_EDM
        prediction = None if edm else _PREDICTION.get(base.model_type, base.model_type.name.lower())
        found = describe_unet(
            shapes,
            lambda key, rows: _own_weight(model, _UNET + key)[:rows],
            edm,
            prediction,
            title_of(model),
            _heads(base),
        )
        found = _known[base] = replace(found, fingerprint=_file_fingerprint(model) or found.fingerprint)
    return found


def title_of(model: ModelPatcher) -> str:
    """The file or folder a MODEL was loaded from, without its ending, or its class where the loader left no trace."""
    file = _file_of(model)
    return type(model.model).__name__ if file is None else TITLES.get(file, file.stem)


def _file_fingerprint(model: ModelPatcher) -> str | None:
    """The fingerprint of the file behind a model that ComfyUI keeps in 8 bits (``--fp8_e4m3fn-unet``), whose weights are no longer the file's."""
    file = _file_of(model)
    if file is None or all(
        parameter.dtype.itemsize > 1 for parameter in model.model.diffusion_model.parameters()
    ):
        return None
    try:
        return describe_file(file).fingerprint
    except ModelError:  # of a kind that core does not read
        return None


def _file_of(model: ModelPatcher) -> Path | None:
    """What a MODEL was loaded from, where the loader left a trace."""
    arguments = model.cached_patcher_init[1] if model.cached_patcher_init else ()
    return Path(arguments[0]) if arguments and isinstance(arguments[0], str) else None


def _own_weight(model: ModelPatcher, key: str) -> Tensor:
    """A weight as it was loaded: what a LoRA has been merged into is kept aside by ComfyUI."""
    for backup in (model.hook_backup, model.backup):
        if key in backup:
            kept = backup[key]
            return dequantized(kept[0])  # the weight comes first in both
    return dequantized(get_key_weight(model.model, key)[0])


def _heads(base: BaseModel) -> int | None:
    heads = base.model_config.unet_config.get("num_heads", -1)
    return heads if heads > 0 else None
