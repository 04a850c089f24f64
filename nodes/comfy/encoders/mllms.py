"""Lists, loads and applies the vision-language models and connectors in a ComfyUI installation."""

from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from torch import Tensor

from ....core.encoders.mllm import Mllm, load_mllm
from ....core.encoders.mllm_folders import PUBLIC, check_folder, stored_bits, stored_dtype
from ....core.errors import ModelError
from ....core.models.builtin import POCKET_CONNECTOR_FILE, POCKET_READER_FOLDER
from ....core.progress import Progress
from ....core.reasoning.connector import Connector, load_connector, text_fingerprint
from ....core.reasoning.state_cache import StateStore, cached_states
from ..folders import model_folders
from ..sampling.instruction_patch import Conditioning
from ..types import Clip
from .residency import prepare

POCKET_TITLE = "pocket reader (built in)"
POCKET_CONNECTOR_TITLE = "pocket connector (built in)"
MISSING_CONNECTOR = "none in models/connectors yet"

MLLMS = "mllm"
CONNECTORS = "connectors"
# Model folders. Other packs use ``LLM`` as well.
_KINDS = (MLLMS, "LLM")

# Choices of Load MLLM -> dtype and bits.
PRECISIONS: dict[str, tuple[torch.dtype | None, int | None]] = {
    "auto": (None, None),
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "fp32": (torch.float32, None),
    "8 bit (bitsandbytes)": (None, 8),
    "4 bit (bitsandbytes)": (None, 4),
}

_stores: dict[Path, StateStore] = {}


def register() -> None:
    """Registers ``models/mllm``, ``models/LLM`` and ``models/connectors`` as model folders."""
    for kind in _KINDS:
        model_folders.register_folders(kind)
    model_folders.register(CONNECTORS)


def names() -> list[str]:
    """Returns the built-in model, if present, and the folders ``mllm/…`` and ``LLM/…``.

    Without folders, lists the name of a public model that can be put there.
    """
    built_in = [POCKET_TITLE] if POCKET_READER_FOLDER.is_dir() else []
    found = [f"{kind}/{name}" for kind in _KINDS for name in model_folders.transformers_folders(kind)]
    return [*built_in, *(found or [f"{MLLMS}/{PUBLIC.split('/')[1]}"])]


def folder_of(name: str) -> Path:
    """Returns the folder of one of ``names``.

    Raises:
        ModelError: the folder is missing, incomplete or of another kind.
    """
    if name == POCKET_TITLE:
        folder = POCKET_READER_FOLDER
    else:
        kind, _, rest = name.partition("/")
        if kind not in _KINDS:
            kind = MLLMS
            rest = name
        folder = model_folders.folder_named(kind, rest, model_folders.transformers_folders(kind))
    check_folder(folder)
    return folder


def load(name: str, precision: str) -> Mllm:
    """Loads one of ``names`` in one of ``PRECISIONS``. Its weights are read on first use.

    Raises:
        ModelError: the folder is missing or invalid, or bitsandbytes is missing.
    """
    folder = folder_of(name)
    dtype, bits = PRECISIONS[precision]
    device = comfy.model_management.get_torch_device()
    if dtype is None:
        dtype = _fitting_dtype(stored_dtype(folder), device)
    # Quantized weights stay on the device that they are loaded onto.
    place = device if bits or stored_bits(folder) else comfy.model_management.text_encoder_offload_device()
    with torch.inference_mode(False):
        return load_mllm(folder, place, dtype, bits, lazily=True)


def _fitting_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that the weights are stored in, or fp32 if the device cannot compute in it."""
    if device.type == "cpu":
        return torch.float32
    # Whether it can at all, as ComfyUI asks for weights that it casts: fp32 would need twice the memory.
    can_use_bf16 = comfy.model_management.should_use_bf16(
        device, prioritize_performance=False, manual_cast=True
    )
    return torch.float32 if stored == torch.bfloat16 and not can_use_bf16 else stored


def connector_names() -> list[str]:
    """Returns the built-in connector, if present, and the files in ``models/connectors``."""
    built_in = [POCKET_CONNECTOR_TITLE] if POCKET_CONNECTOR_FILE.is_file() else []
    return [*built_in, *model_folders.files(CONNECTORS)] or [MISSING_CONNECTOR]


def connector_file(name: str) -> Path:
    """Returns the file of one of ``connector_names``.

    Raises:
        ModelError: the file does not exist, or the name leaves its folder.
    """
    if name == POCKET_CONNECTOR_TITLE and POCKET_CONNECTOR_FILE.is_file():
        return POCKET_CONNECTOR_FILE
    path = model_folders.file_of(CONNECTORS, name)
    if path is None:
        raise ModelError(
            f"Connector '{name}' was not found. Put a connector (.safetensors) that "
            "'python -m instructbrush reason train' wrote into "
            f"{model_folders.folders_of(CONNECTORS)[0]} and refresh the list (key R)."
        )
    return path


def load_connector_named(name: str) -> Connector:
    """Loads one of ``connector_names`` onto ComfyUI's offload device.

    Raises:
        ModelError: the file is missing or cannot be used.
    """
    with torch.inference_mode(False):
        return load_connector(connector_file(name), comfy.model_management.text_encoder_offload_device())


def states(
    mllm: Mllm, images: Tensor, words: str, task: str, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the MLLM's states of images [B, H, W, 3] with the same words, cached on disk by content.

    Returns:
        States [B, L, D] and their mask [B, L].

    Raises:
        ModelError: an image or the words are not valid input.
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
    """Returns the cache of states, in ComfyUI's system folder, which is not served."""
    folder = Path(folder_paths.get_system_user_directory("instructbrush")) / "states"
    return _stores.setdefault(folder, StateStore(folder))


def check_fits(connector: Connector, mllm: Mllm, clip: Clip, conditioning: Conditioning) -> list[str]:
    """See ``Connector.check_fits``."""
    own = text_fingerprint(clip.cond_stage_model.state_dict()) if connector.config.text_fingerprint else ""
    return connector.check_fits(mllm.width, mllm.name, mllm.fingerprint, conditioning[0][0].shape[-1], own)


def encode(connector: Connector, conditioning: Conditioning, hidden: Tensor, mask: Tensor) -> Conditioning:
    """Replaces the text states in a CONDITIONING by the connector's output, one row for each image.

    Raises:
        ModelError: see ``Connector.encode``.
    """
    prepare(connector)
    return [[connector.encode(text, hidden, mask), options] for text, options in conditioning]
