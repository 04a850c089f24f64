"""Loads a diffusers folder, a checkpoint file or the built-in pocket editor on the diffusers engine."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..models.builtin import POCKET_FOLDER, part_files, part_folder, resolved, title_of
from ..models.families import ModelDescription, describe_unet
from ..models.hub_folders import how_to_download
from ..models.module_builder import UNET_PREFIX, ModuleBuilder, build_folder, build_single_file
from ..models.tokenizer import clip_tokenizer, tokenizer_from_folder
from ..models.weights import Weights, folder_weights, read_config, read_header, read_json
from ..models.widening import widened_shapes
from .diffusers_denoiser import DiffusersDenoiser, comfyui_only_message
from .editor import DiffusersEditor

_DEFAULT_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
_SCHEDULER_OPTIONS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)

# Endings of tensor names that only quantized weights have.
_QUANTIZATION_KEYS = ("scaled_fp8", ".scale_weight", ".weight_scale", ".absmax")
_MAX_HEADS = 1024


def describe(path: str | Path | None = None) -> ModelDescription:
    """Describes a model from its headers and a few rows of its weights.

    Args:
        path: a diffusers folder; a ``.safetensors`` checkpoint (SD1.5, SD2.1, SDXL or CosXL layout with 8
            input channels, or 12 if it reads a mask; UltraEdit's SD3 with 32 or 48); or None for the pocket
            editor.

    Raises:
        ModelError: the model does not exist, is damaged, or is not an InstructPix2Pix model of a known
            family.
    """
    return _describe(_resolve(path))[0]


def load_editor(
    path: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tokenizer: str | Path | None = None,
    in_channels: int | None = None,
) -> DiffusersEditor:
    """Loads a frozen model on the diffusers engine. Uses no network and reads ``.safetensors`` files only.

    Args:
        path: as in ``describe``.
        device: device of the weights.
        dtype: fp32, fp16 or bf16, for all weights.
        tokenizer: a folder with ``vocab.json`` and ``merges.txt``. By default the folder ``tokenizer`` in the
            model's folder or beside the checkpoint file; without one, CLIP's standard tokenizer.
        in_channels: widen the UNet of a diffusers folder to 8 or 12 input channels, see
            core/models/widening.py. This prepares a text-to-image model for training as an editor, or an
            editor for learning to read masks.

    Raises:
        ModelError: as ``describe``; also if the model runs in ComfyUI only (SDXL, CosXL, SD3), has quantized
            weights, or lacks a part.
    """
    source = _resolve(path)
    description, weights = _describe(source, in_channels)
    if description.family.comfyui_only:
        raise ModelError(comfyui_only_message(description))
    quantized = next((name for name in weights.shapes if name.endswith(_QUANTIZATION_KEYS)), None)
    if quantized is not None:
        raise ModelError(
            f"{description.title}: its weights are quantized with scales ({quantized[:80]}), "
            "which only ComfyUI reads. Use the model in fp16, bf16 or fp32."
        )
    builder = ModuleBuilder(description.title, torch.device(device), dtype)
    if source.is_dir():
        unet, vae, text_encoder = build_folder(builder, source, weights, in_channels)
        folder = Path(tokenizer) if tokenizer else part_folder(source, "tokenizer")
        loaded_tokenizer = tokenizer_from_folder(folder)
    else:
        unet, vae, text_encoder = build_single_file(builder, weights, description)
        folder = Path(tokenizer) if tokenizer else source.parent / "tokenizer"
        if tokenizer is not None or folder.is_dir():
            loaded_tokenizer = tokenizer_from_folder(folder)
        else:
            padding = "!" if description.family.name == "sd21" else "<|endoftext|>"
            loaded_tokenizer = clip_tokenizer(padding)
    denoiser = DiffusersDenoiser(unet, description, _alphas_cumprod(source))
    return DiffusersEditor(denoiser, vae, text_encoder, loaded_tokenizer)


def _resolve(path: str | Path | None) -> Path:
    source = POCKET_FOLDER if path is None else resolved(path)
    try:
        exists = source.exists()
    except OSError as error:
        raise ModelError(
            f"{source.name[:80]}: it cannot be opened ({error.strerror}). Check the path and its permissions."
        ) from error
    if not exists:
        advice = how_to_download(str(path)) or "Check the path."
        raise ModelError(f"{source.name}: there is no such file or folder ({source}). {advice}")
    if source.is_dir() and not any((source / part).is_dir() for part in ("unet", "transformer")):
        raise ModelError(
            f"{source.name}: this folder is not a diffusers model: it has no folder 'unet' in it. "
            "Choose the model's top folder."
        )
    return source


def _describe(source: Path, in_channels: int | None = None) -> tuple[ModelDescription, Weights]:
    """The description and the weights: of the UNet or transformer for a folder, else of the whole file."""
    if source.is_dir():
        return _describe_folder(source, in_channels)
    if in_channels is not None:
        raise ModelError(
            f"{source.name}: only a diffusers folder can be widened and fine-tuned, not a single file. "
            "Convert it to a folder first."
        )
    return _describe_file(source)


def _describe_folder(source: Path, in_channels: int | None) -> tuple[ModelDescription, Weights]:
    title = title_of(source)
    part = source / ("unet" if (source / "unet").is_dir() else "transformer")
    stems = ("diffusion_pytorch_model",)
    weights = folder_weights(part, stems, part_files(source, part.name, stems))
    scheduler = part_folder(source, "scheduler") / "scheduler_config.json"
    prediction = None
    if scheduler.is_file():
        prediction = str(read_json(scheduler).get("prediction_type", "epsilon"))
    config = read_config(part / "config.json")
    if "quantization_config" in config:
        raise ModelError(
            f"{title}: the weights in its folder '{part.name}' are quantized, which is not supported. "
            "Use the model in fp16, bf16 or fp32."
        )
    # In diffusers' configs, attention_head_dim is the number of heads: a misnomer kept for old files.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim")
    if type(heads) is not int or not 1 <= heads <= _MAX_HEADS:
        heads = None
    shapes = weights.shapes if in_channels is None else widened_shapes(weights.shapes, in_channels, title)
    description = describe_unet(shapes, weights.rows, prediction=prediction, title=title, heads=heads)
    return description, weights


def _describe_file(source: Path) -> tuple[ModelDescription, Weights]:
    weights = Weights([read_header(source)])
    unet = weights.under(UNET_PREFIX)
    if not unet.shapes:
        # A file that holds only the UNet has no prefix.
        unet = weights
    description = describe_unet(
        unet.shapes,
        unet.rows,
        edm="edm_vpred.sigma_max" in weights.shapes,
        prediction="v_prediction" if "v_pred" in weights.shapes else None,
        title=source.name,
    )
    return description, weights


def _alphas_cumprod(source: Path) -> Tensor:
    """abar [1000] of the model's noise schedule."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    path = part_folder(source, "scheduler") / "scheduler_config.json"
    config = read_json(path) if source.is_dir() and path.is_file() else _DEFAULT_SCHEDULER
    steps = config.get("num_train_timesteps", 1000)
    if steps != 1000:
        raise ModelError(f"{source.name}: its noise schedule has {str(steps)[:20]} steps; 1000 are needed.")
    options = {name: config[name] for name in _SCHEDULER_OPTIONS if name in config}
    try:
        abar = DDPMScheduler(**options).alphas_cumprod
    except Exception as error:  # diffusers raises anything on an invalid configuration
        raise ModelError(
            f"{source.name}: its scheduler_config.json cannot be used ({str(error)[:300]}). Download it "
            "again."
        ) from error
    if abar.shape != (1000,) or not bool(((abar >= 0) & (abar <= 1)).all()):
        raise ModelError(
            f"{source.name}: its scheduler_config.json does not give a noise schedule of 1000 steps. "
            "Download it again."
        )
    return abar
