"""Vision-language models and connectors in a ComfyUI installation: where they lie, when they are on the device, and what they give as CONDITIONING."""

from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import torch
from torch import Tensor

from ....core.encoders.mllm import PUBLIC, Mllm, check_folder, load_mllm, stored_bits, stored_dtype
from ....core.errors import ModelError
from ....core.models.builtin import POCKET_CONNECTOR_FILE, POCKET_READER_FOLDER
from ....core.progress import Progress
from ....core.reasoning.connector import Connector, load_connector, text_fingerprint
from ....core.reasoning.state_cache import StateStore, cached_states
from ..folders import model_folders
from ..sampling.instruction_patch import Conditioning
from . import residency as held

POCKET_TITLE = "pocket reader (built in)"
POCKET_CONNECTOR_TITLE = "pocket connector (built in)"
MISSING_CONNECTOR = "none in models/connectors yet"

MLLMS = "mllm"
CONNECTORS = "connectors"
_KINDS = (MLLMS, "LLM")
"""Folders of models; the second is one that other packs use as well."""

PRECISIONS: dict[str, tuple[torch.dtype | None, int | None]] = {
    "auto": (None, None),
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "fp32": (torch.float32, None),
    "8 bit (bitsandbytes)": (None, 8),
    "4 bit (bitsandbytes)": (None, 4),
}
"""What Load MLLM offers -> dtype and bits."""

_stores: dict[Path, StateStore] = {}


def register() -> None:
    """Make ``models/mllm``, ``models/LLM`` and ``models/connectors`` model folders."""
    for kind in _KINDS:
        model_folders.register_folders(kind)
    model_folders.register(CONNECTORS)


def names() -> list[str]:
    """The built-in reader where there is one, ``mllm/…`` and ``LLM/…``: what lies there, or the public model that may be put there."""
    built_in = [POCKET_TITLE] if POCKET_READER_FOLDER.is_dir() else []
    found = [f"{kind}/{name}" for kind in _KINDS for name in model_folders.transformers_folders(kind)]
    return [*built_in, *(found or [f"{MLLMS}/{PUBLIC.split('/')[1]}"])]


def folder_of(name: str) -> Path:
    """The folder of one of :func:`names`.

    Raises:
        ModelError: it is missing, incomplete or of another kind.
    """
    if name == POCKET_TITLE:
        folder = POCKET_READER_FOLDER
    else:
        kind, _, rest = name.partition("/")
        kind, rest = (kind, rest) if kind in _KINDS else (MLLMS, name)
        folder = model_folders.folder_named(kind, rest, model_folders.transformers_folders(kind))
    check_folder(folder)
    return folder


def load(name: str, precision: str) -> Mllm:
    """Load one of :func:`names` in one of ``PRECISIONS``. Its weights are read when they are first needed.

    Raises:
        ModelError: as :func:`folder_of`, the files cannot be used, or bitsandbytes is missing.
    """
    folder, (dtype, bits) = folder_of(name), PRECISIONS[precision]
    device = comfy.model_management.get_torch_device()
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else stored_dtype(folder)
    # Quantised weights stay where they are read to.
    place = device if bits or stored_bits(folder) else comfy.model_management.text_encoder_offload_device()
    with torch.inference_mode(False):
        return load_mllm(folder, place, dtype, bits, lazily=True)


def prepare(model: Mllm | Connector) -> None:
    """Bring a model to the device."""
    if isinstance(model, Connector):
        held.bring(model, torch.nn.ModuleDict(dict(model.named_children())))
    elif not model.bits:
        held.bring(model, model.module)
    else:  # quantised on the device, which must have room for it, and left there
        if not model.loaded:
            comfy.model_management.unload_all_models()
        held.bring(model, model.module, stays=True)


def connector_names() -> list[str]:
    """The built-in connector where there is one, then the files in ``models/connectors``."""
    built_in = [POCKET_CONNECTOR_TITLE] if POCKET_CONNECTOR_FILE.is_file() else []
    return [*built_in, *model_folders.files(CONNECTORS)] or [MISSING_CONNECTOR]


def connector_file(name: str) -> Path:
    """The file of one of :func:`connector_names`.

    Raises:
        ModelError: there is none of that name, or the name leaves its folder.
    """
    if name == POCKET_CONNECTOR_TITLE and POCKET_CONNECTOR_FILE.is_file():
        return POCKET_CONNECTOR_FILE
    path = model_folders.file_of(CONNECTORS, name)
    if path is None:
        raise ModelError(
            f"Connector '{name}' was not found. Put a connector (.safetensors) that 'python -m instructbrush reason train' wrote into "
            f"{model_folders.folders_of(CONNECTORS)[0]} and refresh the list (key R)."
        )
    return path


def load_connector_named(name: str) -> Connector:
    """Load one of :func:`connector_names`, to where ComfyUI keeps models that are not in use.

    Raises:
        ModelError: as :func:`connector_file`, or the file cannot be used.
    """
    with torch.inference_mode(False):
        return load_connector(connector_file(name), comfy.model_management.text_encoder_offload_device())


def states(
    mllm: Mllm, images: Tensor, words: str, task: str, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """The MLLM's states of images [B, H, W, 3] with the same words, [B, L, D] and [B, L]; kept in the user's folder, by content.

    Raises:
        ModelError: an image or the words do not fit.
    """
    return cached_states(
        mllm,
        [(image, words) for image in images],
        store(),
        task,
        ready=lambda: prepare(mllm),
        progress=progress,
    )


def store() -> StateStore:
    """What is kept, in ComfyUI's folder for what is the server's own business, which no address reaches."""
    folder = Path(folder_paths.get_system_user_directory("instructbrush")) / "states"
    return _stores.setdefault(folder, StateStore(folder))


def check_fits(
    connector: Connector, mllm: Mllm, clip: comfy.sd.CLIP, conditioning: Conditioning
) -> list[str]:
    """See :meth:`~....core.reasoning.connector.Connector.check_fits`."""
    own = text_fingerprint(clip.cond_stage_model.state_dict()) if connector.config.text_fingerprint else ""
    return connector.check_fits(mllm.width, mllm.name, mllm.fingerprint, conditioning[0][0].shape[-1], own)


def encode(connector: Connector, conditioning: Conditioning, hidden: Tensor, mask: Tensor) -> Conditioning:
    """A CONDITIONING of words, as one that knows the images: a row of text states for each of them in every entry.

    Raises:
        ModelError: see :meth:`~....core.reasoning.connector.Connector.encode`.
    """
    prepare(connector)
    return [[connector.encode(text, hidden, mask), options] for text, options in conditioning]
