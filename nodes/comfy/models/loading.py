"""Loads InstructPix2Pix models as MODEL, CLIP and VAE: built-in ones, single files, diffusers folders."""

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
from .key_names import States, text_keys, tiny_vae_keys, unet_keys
from .model_detection import PocketClip, PocketTokenizers, register

POCKET_NAME = "pocket editor (built in)"
POCKET_REGION_NAME = "pocket region editor (built in)"
POCKET_REASON_NAME = "pocket reasoning editor (built in)"
_CHECKPOINT_PREFIX = "model.diffusion_model."
_DIFFUSERS_DEPTH = 4

Loaded = tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]


def model_names() -> list[str]:
    """Returns the choices: built-in editors, ``checkpoints/…`` and ``diffusers/…``."""
    built_in = [name for name, folder in _built_in().items() if folder.is_dir()]
    files = [f"checkpoints/{name}" for name in model_folders.files("checkpoints")]
    return [*built_in, *files, *(f"diffusers/{name}" for name in _diffusers_folders())]


def model_path(name: str) -> Path:
    """Returns the file or folder of one of ``model_names``.

    Raises:
        ModelError: it does not exist, or the name leaves its folder.
    """
    if name in _built_in():
        return _built_in()[name]
    kind, _, rest = name.partition("/")
    path = None
    if kind == "checkpoints":
        path = model_folders.file_of(kind, rest)
    elif kind == "diffusers":
        folder = model_folders.folder_named(kind, rest, _diffusers_folders())
        path = folder if os.path.isdir(folder) else None
    if path is None:
        raise ModelError(f"Model '{name}' was not found. Refresh the list (key R) and choose from it.")
    return path


def load_model(name: str) -> Loaded:
    """Loads one of ``model_names``.

    Returns:
        MODEL, CLIP and VAE, as ComfyUI's own loaders make them.

    Raises:
        ModelError: the model does not exist, is unreadable or incomplete, or is not an editing model.
    """
    path = model_path(name)
    return load_folder(path) if path.is_dir() else load_file(path)


def family_of(name: str) -> Family:
    """Detects the family of one of ``model_names``, from its headers.

    Raises:
        ModelError: as ``load_model``.
    """
    path = model_path(name)
    if path.is_dir():
        return _check_kind(_weights(path, _denoiser_part(path)), "", path.name)
    return _check_kind([path], _CHECKPOINT_PREFIX, path.name)


def load_file(path: Path) -> Loaded:
    """Loads a single-file checkpoint.

    Raises:
        ModelError: as ``load_model``.
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
            f"{path.name}: it holds no {missing}. Choose a complete checkpoint, or load the parts with "
            "ComfyUI's own loaders."
        )
    return model, clip, vae


def load_folder(folder: Path) -> Loaded:
    """Loads a diffusers folder: ``unet`` or ``transformer``, ``vae``, and one to three text encoders.

    Raises:
        ModelError: as ``load_model``.
    """
    register()
    family = _check_kind(_weights(folder, _denoiser_part(folder)), "", folder.name)
    vae_files = _weights(folder, "vae")
    text_files = [_weights(folder, "text_encoder")]
    for part in ("text_encoder_2", "text_encoder_3"):
        if (folder / part).is_dir():
            text_files.append(_weights(folder, part))
    model = load_folder_unet(str(folder))
    return model, load_folder_clip(family, text_files), load_folder_vae(vae_files)


def load_folder_unet(folder: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """Loads a folder's UNet or transformer.

    ComfyUI calls the functions in ``cached_patcher_init`` again, for a copy on another GPU and for hooks.
    """
    path = Path(folder)
    part = _denoiser_part(path)
    states = _read(_weights(path, part))
    # ComfyUI reads diffusers' names of transformers.
    states = unet_keys(states) if part == "unet" else states
    if _prediction(path) == "v_prediction":
        states["v_pred"] = torch.tensor([])
    model = comfy.sd.load_diffusion_model_state_dict(states, disable_dynamic=disable_dynamic)
    if model is None:
        raise ModelError(
            f"{path.name}: ComfyUI does not know a model of this shape. Choose an SD1.5, SD2.1, SDXL or SD3 "
            "editing model."
        )
    model.cached_patcher_init = (load_folder_unet, (folder,))
    return model


def load_folder_vae(files: list[Path]) -> comfy.sd.VAE:
    """Loads the VAE of a diffusers folder; a tiny autoencoder as ComfyUI's TAESD, in fp32."""
    states = _read(files)
    if "decoder.layers.0.weight" in states:
        vae = comfy.sd.VAE(sd=tiny_vae_keys(states), dtype=torch.float32)
    else:
        vae = comfy.sd.VAE(sd=states)
    if vae.first_stage_model is None:
        raise ModelError(
            f"{files[0].parent.parent.name}: its VAE is of an unknown kind. Choose a folder with an "
            "AutoencoderKL."
        )
    vae.patcher.cached_patcher_init = (_vae_patcher, (files,))
    return vae


def _vae_patcher(files: list[Path], disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    # ComfyUI's VAE cannot choose either, and its own loader ignores it, too.
    return load_folder_vae(files).patcher


def load_folder_clip(
    family: Family, files_of_encoders: list[list[Path]], disable_dynamic: bool = False
) -> comfy.sd.CLIP:
    """Loads the text encoders of a diffusers folder."""
    if family.name == "pocket":
        clip = _pocket_clip(files_of_encoders[0], disable_dynamic)
    else:
        clip = _clip(family, files_of_encoders, disable_dynamic)
    clip.patcher.cached_patcher_init = (_clip_patcher, (family, files_of_encoders))
    return clip


def _clip_patcher(
    family: Family, files_of_encoders: list[list[Path]], disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    return load_folder_clip(family, files_of_encoders, disable_dynamic).patcher


def _pocket_clip(files: list[Path], disable_dynamic: bool) -> comfy.sd.CLIP:
    states = {f"clip_l.transformer.{key}": value for key, value in text_keys(_read(files)).items()}
    return comfy.sd.CLIP(
        supported_models_base.ClipTarget(PocketTokenizers, PocketClip),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(states),
        tokenizer_data=states,
        state_dict=states,
        disable_dynamic=disable_dynamic,
    )


def _clip(family: Family, files_of_encoders: list[list[Path]], disable_dynamic: bool) -> comfy.sd.CLIP:
    kind = comfy.sd.CLIPType.SD3 if family.name == "sd3" else comfy.sd.CLIPType.STABLE_DIFFUSION
    return comfy.sd.load_text_encoder_state_dicts(
        [text_keys(_read(files)) for files in files_of_encoders],
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        clip_type=kind,
        disable_dynamic=disable_dynamic,
    )


def _built_in() -> dict[str, Path]:
    """Returns name -> folder of the models that come with the pack. The folders may be missing."""
    return {
        POCKET_NAME: POCKET_FOLDER,
        POCKET_REGION_NAME: POCKET_REGION_FOLDER,
        POCKET_REASON_NAME: POCKET_REASON_FOLDER,
    }


def _diffusers_folders() -> dict[str, Path]:
    """Returns name -> folder of the models under ``models/diffusers`` that have a UNet or a transformer."""
    folders = model_folders.folders_with("model_index.json", "diffusers", _DIFFUSERS_DEPTH)
    return {
        name: folder for name, folder in folders.items() if os.path.isdir(folder / _denoiser_part(folder))
    }


def _denoiser_part(folder: Path) -> str:
    """``"transformer"`` for SD3, else ``"unet"``."""
    if os.path.isdir(folder / "transformer") and not os.path.isdir(folder / "unet"):
        return "transformer"
    return "unet"


def _weights(folder: Path, part: str) -> list[Path]:
    files = part_files(folder, part, ("diffusion_pytorch_model", "model"))
    if not files:
        raise ModelError(
            f"{folder.name}: no weights (.safetensors) were found in its folder {part}. Download the whole "
            "model, with its safetensors files."
        )
    return files


def _read(files: list[Path]) -> States:
    for file in files:
        read_header(file)  # raises for files that are pickled, cut short or damaged
    # Through ComfyUI, which maps files into memory if the user wants it.
    states: States = {}
    for file in files:
        states.update(cast(States, comfy.utils.load_torch_file(str(file))))
    return states


def _prediction(folder: Path) -> str:
    file = part_folder(folder, "scheduler") / "scheduler_config.json"
    return str(read_json(file).get("prediction_type", "epsilon")) if file.is_file() else "epsilon"


def _check_kind(files: list[Path], prefix: str, title: str) -> Family:
    """Detects the family from the files' headers. Raises ModelError if it is not an editing model."""
    headers = Weights([read_header(path) for path in files])
    shapes = {
        name.removeprefix(prefix): shape for name, shape in headers.shapes.items() if name.startswith(prefix)
    }
    return detect_family(shapes, edm="edm_vpred.sigma_max" in headers.shapes, title=title)
