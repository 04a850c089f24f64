"""InstructPix2Pix models as ComfyUI's MODEL, CLIP and VAE: the built-in one, single files, diffusers folders."""

import json
from pathlib import Path
from typing import Any, cast

import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy import supported_models_base
from safetensors import SafetensorError, safe_open

from ...core.errors import ModelError
from ...core.models.families import detect_family
from . import convert
from .supported import POCKET_FOLDER, PocketClip, PocketTokenizers, register

POCKET_NAME = "pocket editor (built in)"
_CHECKPOINT_PREFIX = "model.diffusion_model."

Loaded = tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]


def model_names() -> list[str]:
    """What Load InstructPix2Pix offers: the built-in editor, ``checkpoints/…`` and ``diffusers/…``."""
    files = [f"checkpoints/{name}" for name in folder_paths.get_filename_list("checkpoints") if name.endswith(".safetensors")]
    return [POCKET_NAME, *files, *(f"diffusers/{name}" for name in _diffusers_folders())]


def load_model(name: str) -> Loaded:
    """Load a model by one of :func:`model_names`.

    Returns:
        MODEL, CLIP and VAE as ComfyUI's own loaders make them.

    Raises:
        ModelError: no such model, an unreadable or incomplete one, or not an 8-channel InstructPix2Pix model.
    """
    register()
    if name == POCKET_NAME:
        return load_folder(POCKET_FOLDER)
    kind, _, rest = name.partition("/")
    if kind == "checkpoints":
        path = folder_paths.get_full_path("checkpoints", rest)
        if path is not None:
            return load_file(Path(path))
    elif kind == "diffusers":
        folder = _diffusers_folders().get(rest)
        if folder is not None:
            return load_folder(folder)
    raise ModelError(f"Model '{name}' was not found. Refresh the list (key R) and choose one of it.")


def load_file(path: Path) -> Loaded:
    """Load a single-file checkpoint.

    Raises:
        ModelError: as :func:`load_model`.
    """
    register()
    _check_kind(path, _CHECKPOINT_PREFIX, path.name)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
        str(path), output_vae=True, output_clip=True, embedding_directory=folder_paths.get_folder_paths("embeddings")
    )
    if model is None or clip is None or vae is None or vae.first_stage_model is None:
        missing = "text encoder" if clip is None else "VAE"
        raise ModelError(f"{path.name}: it holds no {missing}. Choose a complete checkpoint, or load the parts with ComfyUI's own loaders.")
    return model, clip, vae


def load_folder(folder: Path) -> Loaded:
    """Load a diffusers folder: ``unet``, ``vae``, ``text_encoder`` and, for SDXL, ``text_encoder_2``.

    Raises:
        ModelError: as :func:`load_model`.
    """
    register()
    _check_kind(_weights(folder, "unet"), "", folder.name)
    vae_file, text_file = _weights(folder, "vae"), _weights(folder, "text_encoder")
    model = load_folder_unet(str(folder))
    model.cached_patcher_init = (load_folder_unet, (str(folder),))
    vae = load_folder_vae(vae_file)
    embeddings = folder_paths.get_folder_paths("embeddings")
    if _config(folder, "text_encoder").get("hidden_size") == 128:
        states = {f"clip_l.transformer.{key}": value for key, value in convert.text_keys(_read(text_file)).items()}
        target = supported_models_base.ClipTarget(PocketTokenizers, PocketClip)
        size = comfy.utils.calculate_parameters(states)
        clip = comfy.sd.CLIP(target, embedding_directory=embeddings, parameters=size, tokenizer_data=states, state_dict=states)
    else:
        files = [text_file, *([_weights(folder, "text_encoder_2")] if (folder / "text_encoder_2").is_dir() else [])]
        states_of_all = [convert.text_keys(_read(file)) for file in files]
        clip = comfy.sd.load_text_encoder_state_dicts(states_of_all, embedding_directory=embeddings)
    return model, clip, vae


def load_folder_unet(folder: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The UNet of a diffusers folder. ComfyUI calls this again when it needs a fresh copy (several GPUs)."""
    path = Path(folder)
    states = convert.unet_keys(_read(_weights(path, "unet")))
    if _prediction(path) == "v_prediction":
        states["v_pred"] = torch.tensor([])
    model = comfy.sd.load_diffusion_model_state_dict(states, disable_dynamic=disable_dynamic)
    if model is None:
        raise ModelError(f"{path.name}: ComfyUI does not know a UNet of this shape. Choose an SD1.5, SD2.1 or SDXL InstructPix2Pix model.")
    return model


def load_folder_vae(file: Path) -> comfy.sd.VAE:
    """The VAE of a diffusers folder; a tiny autoencoder is read as ComfyUI's TAESD, in fp32."""
    states = _read(file)
    tiny = "decoder.layers.0.weight" in states
    vae = comfy.sd.VAE(sd=convert.tiny_vae_keys(states) if tiny else states, dtype=torch.float32 if tiny else None)
    if vae.first_stage_model is None:
        raise ModelError(f"{file.parent.parent.name}: its vae is of no known kind. Choose a folder with an AutoencoderKL.")
    return vae


def _diffusers_folders() -> dict[str, Path]:
    """Name -> folder of every model under ``models/diffusers`` that has a UNet; the first root that has a name wins."""
    found: dict[str, Path] = {}
    for root in folder_paths.get_folder_paths("diffusers"):
        for index in sorted(Path(root).glob("**/model_index.json")):
            if (index.parent / "unet").is_dir():
                found.setdefault(index.parent.relative_to(root).as_posix(), index.parent)
    return found


def _weights(folder: Path, part: str) -> Path:
    for name in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            file = folder / part / f"{name}{variant}.safetensors"
            if file.is_file():
                return file
    raise ModelError(
        f"{folder.name}: no weights (.safetensors) were found in its folder {part}. Download the whole model, with its safetensors files in one piece."
    )


def _read(file: Path) -> convert.States:
    # Through ComfyUI, which maps files into memory as the user has set it.
    return cast(convert.States, comfy.utils.load_torch_file(str(file)))


def _config(folder: Path, part: str, name: str = "config.json") -> dict[str, Any]:
    file = folder / part / name
    return json.loads(file.read_text()) if file.is_file() else {}


def _prediction(folder: Path) -> str:
    return _config(folder, "scheduler", "scheduler_config.json").get("prediction_type", "epsilon")


def _check_kind(path: Path, prefix: str, title: str) -> None:
    """Refuse, from the file's header alone, what is no InstructPix2Pix UNet."""
    try:
        with safe_open(str(path), framework="pt") as file:
            keys = list(file.keys())
            shapes = {key.removeprefix(prefix): tuple(file.get_slice(key).get_shape()) for key in keys if key.startswith(prefix)}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{title} cannot be read ({error}). Download it again: the file is incomplete or no safetensors file.") from error
    detect_family(shapes, edm="edm_vpred.sigma_max" in keys, title=title)
