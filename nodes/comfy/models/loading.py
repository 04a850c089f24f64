"""InstructPix2Pix models as ComfyUI's MODEL, CLIP and VAE: the built-in one, single files, diffusers folders."""

import os
from pathlib import Path
from typing import cast

import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy import supported_models_base

from ....core.errors import ModelError
from ....core.models.builtin import (
    POCKET_FOLDER,
    POCKET_REASON_FOLDER,
    POCKET_REGION_FOLDER,
    part_files,
    part_folder,
)
from ....core.models.families import Family, detect_family
from ....core.models.weights import Weights, read_header, read_json
from ..folders import model_folders
from . import key_names as convert
from .model_detection import PocketClip, PocketTokenizers, register

POCKET_NAME = "pocket editor (built in)"
POCKET_REGION_NAME = "pocket region editor (built in)"
POCKET_REASON_NAME = "pocket reasoning editor (built in)"
_CHECKPOINT_PREFIX = "model.diffusion_model."
_DIFFUSERS_DEPTH = 4

Loaded = tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]


def model_names() -> list[str]:
    """What Load InstructPix2Pix offers: the built-in editors, ``checkpoints/…`` and ``diffusers/…``."""
    built_in = [name for name, folder in _built_in().items() if folder.is_dir()]
    files = [f"checkpoints/{name}" for name in model_folders.files("checkpoints")]
    return [*built_in, *files, *(f"diffusers/{name}" for name in _diffusers_folders())]


def model_path(name: str) -> Path:
    """The file or the folder of one of :func:`model_names`.

    Raises:
        ModelError: there is none of that name, or the name leaves its folder.
    """
    if name in _built_in():
        return _built_in()[name]
    kind, _, rest = name.partition("/")
    place = None
    if kind == "checkpoints":
        place = model_folders.file_of(kind, rest)
    elif kind == "diffusers":
        folder = model_folders.folder_named(kind, rest, _diffusers_folders())
        place = folder if os.path.isdir(folder) else None
    if place is None:
        raise ModelError(f"Model '{name}' was not found. Refresh the list (key R) and choose one of it.")
    return place


def load_model(name: str) -> Loaded:
    """Load a model by one of :func:`model_names`.

    Returns:
        MODEL, CLIP and VAE as ComfyUI's own loaders make them.

    Raises:
        ModelError: no such model, an unreadable or incomplete one, or not an editing model.
    """
    place = model_path(name)
    return load_folder(place) if place.is_dir() else load_file(place)


def load_file(path: Path) -> Loaded:
    """Load a single-file checkpoint.

    Raises:
        ModelError: as :func:`load_model`.
    """
    register()
    _check_kind([path], _CHECKPOINT_PREFIX, path.name)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
        str(path),
        output_vae=True,
        output_clip=True,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
    )
    if model is None or clip is None or vae is None or vae.first_stage_model is None:
        missing = "text encoder" if clip is None else "VAE"
        raise ModelError(
            f"{path.name}: it holds no {missing}. Choose a complete checkpoint, or load the parts with ComfyUI's own loaders."
        )
    return model, clip, vae


def load_folder(folder: Path) -> Loaded:
    """Load a diffusers folder: ``unet`` or ``transformer``, ``vae``, ``text_encoder`` and, for SDXL, ``text_encoder_2``, for SD3 also ``text_encoder_3``.

    Raises:
        ModelError: as :func:`load_model`.
    """
    register()
    family = _check_kind(_weights(folder, _denoiser_part(folder)), "", folder.name)
    vae_files, text_files = _weights(folder, "vae"), _weights(folder, "text_encoder")
    model = load_folder_unet(str(folder))
    vae = load_folder_vae(vae_files)
    embeddings = folder_paths.get_folder_paths("embeddings")
    if family.name == "pocket":
        states = {
            f"clip_l.transformer.{key}": value for key, value in convert.text_keys(_read(text_files)).items()
        }
        target = supported_models_base.ClipTarget(PocketTokenizers, PocketClip)
        size = comfy.utils.calculate_parameters(states)
        clip = comfy.sd.CLIP(
            target, embedding_directory=embeddings, parameters=size, tokenizer_data=states, state_dict=states
        )
    else:
        further = [
            _weights(folder, part)
            for part in ("text_encoder_2", "text_encoder_3")
            if (folder / part).is_dir()
        ]
        states_of_all = [convert.text_keys(_read(files)) for files in (text_files, *further)]
        kind = comfy.sd.CLIPType.SD3 if family.name == "sd3" else comfy.sd.CLIPType.STABLE_DIFFUSION
        clip = comfy.sd.load_text_encoder_state_dicts(
            states_of_all, embedding_directory=embeddings, clip_type=kind
        )
    return model, clip, vae


def load_folder_unet(folder: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The UNet or transformer of a diffusers folder. ComfyUI calls this again when it needs a fresh copy (several GPUs)."""
    path = Path(folder)
    part = _denoiser_part(path)
    states = _read(_weights(path, part))
    # ComfyUI itself knows diffusers' names of transformers.
    states = convert.unet_keys(states) if part == "unet" else states
    if _prediction(path) == "v_prediction":
        states["v_pred"] = torch.tensor([])
    model = comfy.sd.load_diffusion_model_state_dict(states, disable_dynamic=disable_dynamic)
    if model is None:
        raise ModelError(
            f"{path.name}: ComfyUI does not know a model of this shape. Choose an SD1.5, SD2.1, SDXL or SD3 editing model."
        )
    model.cached_patcher_init = (load_folder_unet, (folder,))
    return model


def load_folder_vae(files: list[Path]) -> comfy.sd.VAE:
    """The VAE of a diffusers folder; a tiny autoencoder is read as ComfyUI's TAESD, in fp32."""
    states = _read(files)
    tiny = "decoder.layers.0.weight" in states
    vae = comfy.sd.VAE(
        sd=convert.tiny_vae_keys(states) if tiny else states, dtype=torch.float32 if tiny else None
    )
    if vae.first_stage_model is None:
        raise ModelError(
            f"{files[0].parent.parent.name}: its vae is of no known kind. Choose a folder with an AutoencoderKL."
        )
    return vae


def _built_in() -> dict[str, Path]:
    """Name -> folder of the models that come with the pack, whether they are there or not."""
    return {
        POCKET_NAME: POCKET_FOLDER,
        POCKET_REGION_NAME: POCKET_REGION_FOLDER,
        POCKET_REASON_NAME: POCKET_REASON_FOLDER,
    }


def _diffusers_folders() -> dict[str, Path]:
    """Name -> folder of every model under ``models/diffusers`` that has a UNet or a transformer; the first root that has a name wins."""
    folders = model_folders.folders_with("model_index.json", "diffusers", _DIFFUSERS_DEPTH)
    return {
        name: folder for name, folder in folders.items() if os.path.isdir(folder / _denoiser_part(folder))
    }


def _denoiser_part(folder: Path) -> str:
    """``"transformer"`` for SD3, else ``"unet"``."""
    return (
        "transformer"
        if os.path.isdir(folder / "transformer") and not os.path.isdir(folder / "unet")
        else "unet"
    )


def _weights(folder: Path, part: str) -> list[Path]:
    files = part_files(folder, part, ("diffusion_pytorch_model", "model"))
    if not files:
        raise ModelError(
            f"{folder.name}: no weights (.safetensors) were found in its folder {part}. Download the whole model, with its safetensors files."
        )
    return files


def _read(files: list[Path]) -> convert.States:
    # Through ComfyUI, which maps files into memory as the user has set it.
    states: convert.States = {}
    for file in files:
        states.update(cast(convert.States, comfy.utils.load_torch_file(str(file))))
    return states


def _prediction(folder: Path) -> str:
    file = part_folder(folder, "scheduler") / "scheduler_config.json"
    return str(read_json(file).get("prediction_type", "epsilon")) if file.is_file() else "epsilon"


def _check_kind(files: list[Path], prefix: str, title: str) -> Family:
    """Tell the family from the files' headers alone, and refuse what is no editing model."""
    headers = Weights([read_header(path) for path in files])
    shapes = {
        name.removeprefix(prefix): shape for name, shape in headers.shapes.items() if name.startswith(prefix)
    }
    return detect_family(shapes, edm="edm_vpred.sigma_max" in headers.shapes, title=title)
