"""Reading a model: the built-in pocket editor, a diffusers folder or a single-file checkpoint."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..models.builtin import POCKET_FOLDER, POCKET_REGION_FOLDER, TITLES, part_files, part_folder
from ..models.families import ModelDescription, describe_unet
from ..models.hub_folders import model_folder, model_title
from ..models.module_builder import UNET_PREFIX, ModuleBuilder, build_folder, build_single_file
from ..models.tokenizer import clip_tokenizer, tokenizer_from_folder
from ..models.weights import Weights, folder_weights, read_config, read_header, read_json
from ..models.widening import widened_shapes
from .denoiser import DiffusersDenoiser, comfyui_only_message
from .editor import DiffusersEditor

__all__ = ["POCKET_FOLDER", "POCKET_REGION_FOLDER", "DiffusersEditor", "describe", "load_editor"]

_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}

_SCALES = ("scaled_fp8", ".scale_weight", ".weight_scale", ".absmax")
_MOST_HEADS = 1024


def describe(path: str | Path | None = None) -> ModelDescription:
    """Say what a model is from its headers and a few rows of its weights; nothing else is read.

    Args:
        path: a diffusers folder, a ``.safetensors`` checkpoint (SD1.5, SD2.1, SDXL or CosXL layout with 8 input channels, or 12 where it reads a mask;
            UltraEdit's SD3 with 32 or 48), ``POCKET_REGION_FOLDER``, or ``None`` for the pocket editor.

    Raises:
        ModelError: there is no such model, it is damaged, or it is not an InstructPix2Pix model of a known family.
    """
    return _describe(_resolve(path))[0]


def load_editor(
    path: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tokenizer: str | Path | None = None,
    in_channels: int | None = None,
) -> DiffusersEditor:
    """Load a model on the diffusers engine, frozen. No network is used and only ``.safetensors`` files are read.

    Args:
        path: as in :func:`describe`.
        device: where it shall run.
        dtype: fp32, fp16 or bf16, of all weights.
        tokenizer: a folder with ``vocab.json`` and ``merges.txt``. By default a folder's own, or beside a single file a folder ``tokenizer``, or
            CLIP's standard one.
        in_channels: widen the input of a folder's UNet to so many channels, 8 or 12; see :mod:`..models.widening`. So a plain text-to-image model becomes one that
            can be tuned into an editor, and an editor one that can be taught to read masks.

    Raises:
        ModelError: as :func:`describe`; also for SDXL, CosXL and SD3, which run in ComfyUI only, and where a part of the model is missing.
    """
    source = _resolve(path)
    description, weights = _describe(source, in_channels)
    if description.family.comfyui_only:
        raise ModelError(comfyui_only_message(description))
    scaled = next((name for name in weights.shapes if name.endswith(_SCALES)), None)
    if scaled is not None:
        raise ModelError(
            f"{description.title}: its weights are quantised with scales of their own ({scaled[:80]}), which are read in ComfyUI only. "
            "Take the model in fp16, bf16 or fp32."
        )
    parts = ModuleBuilder(description.title, torch.device(device), dtype)
    if source.is_dir():
        unet, vae, text = build_folder(parts, source, weights, in_channels)
        words = tokenizer_from_folder(Path(tokenizer) if tokenizer else part_folder(source, "tokenizer"))
    else:
        unet, vae, text = build_single_file(parts, weights, description)
        beside = Path(tokenizer) if tokenizer else source.parent / "tokenizer"
        found = tokenizer is not None or beside.is_dir()
        words = (
            tokenizer_from_folder(beside)
            if found
            else clip_tokenizer("!" if description.family.name == "sd21" else "<|endoftext|>")
        )
    return DiffusersEditor(DiffusersDenoiser(unet, description, _alphas_cumprod(source)), vae, text, words)


def _resolve(path: str | Path | None) -> Path:
    source = POCKET_FOLDER if path is None else model_folder(path)
    try:
        there = source.exists()
    except OSError as error:
        raise ModelError(
            f"{source.name[:80]}: it cannot be opened ({error.strerror}). Check the path, and that it may be read."
        ) from error
    if not there:
        raise ModelError(f"{source.name}: there is no such file or folder ({source}). Check the path.")
    if source.is_dir() and not _is_model(source):
        raise ModelError(
            f"{source.name}: this folder is not a diffusers model: it has no folder 'unet' in it. Choose the model's top folder."
        )
    return source


def _is_model(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in ("unet", "transformer"))


def _describe(source: Path, in_channels: int | None = None) -> tuple[ModelDescription, Weights]:
    """The description, and the weights it came from: those of the UNet (SD3: of the transformer) for a folder, of the whole file otherwise."""
    if source.is_dir():
        part = source / ("unet" if (source / "unet").is_dir() else "transformer")
        stems = ("diffusion_pytorch_model",)
        weights = folder_weights(part, stems, part_files(source, part.name, stems))
        scheduler = part_folder(source, "scheduler") / "scheduler_config.json"
        prediction = (
            str(read_json(scheduler).get("prediction_type", "epsilon")) if scheduler.is_file() else None
        )
        config, title = read_config(part / "config.json"), TITLES.get(source) or model_title(source)
        if "quantization_config" in config:
            raise ModelError(
                f"{title}: its {part.name} is quantised in its folder, which is not read. Take the model in fp16, bf16 or fp32."
            )
        # diffusers' attention_head_dim is the number of heads (a misnomer that it keeps for old files).
        heads = config.get("num_attention_heads") or config.get("attention_head_dim")
        heads = heads if type(heads) is int and 1 <= heads <= _MOST_HEADS else None
        shapes = weights.shapes if in_channels is None else widened_shapes(weights.shapes, in_channels, title)
        return describe_unet(shapes, weights.rows, prediction=prediction, title=title, heads=heads), weights
    if in_channels is not None:
        raise ModelError(
            f"{source.name}: only a diffusers folder can be widened and tuned, not a single file. Convert it to a folder first."
        )
    weights = Weights([read_header(source)])
    unet = weights.under(UNET_PREFIX)
    # A file with the UNet alone has no prefix.
    unet = unet if unet.shapes else weights
    prediction = "v_prediction" if "v_pred" in weights.shapes else None
    description = describe_unet(
        unet.shapes,
        unet.rows,
        edm="edm_vpred.sigma_max" in weights.shapes,
        prediction=prediction,
        title=source.name,
    )
    return description, weights


def _alphas_cumprod(source: Path) -> Tensor:
    """abar [1000] of the model's own noise schedule."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    path = part_folder(source, "scheduler") / "scheduler_config.json"
    config = read_json(path) if source.is_dir() and path.is_file() else _SCHEDULER
    known = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
    )
    steps = config.get("num_train_timesteps", 1000)
    if steps != 1000:
        raise ModelError(f"{source.name}: its noise schedule has {str(steps)[:20]} steps, 1000 are needed.")
    try:
        abar = DDPMScheduler(**{key: config[key] for key in known if key in config}).alphas_cumprod
    except Exception as error:  # A foreign configuration can make diffusers fail in any way.
        raise ModelError(
            f"{source.name}: its scheduler_config.json cannot be used ({str(error)[:300]})."
        ) from error
    if abar.shape != (1000,) or not bool(((abar >= 0) & (abar <= 1)).all()):
        raise ModelError(
            f"{source.name}: its scheduler_config.json does not give a noise schedule of 1000 steps. Download it again."
        )
    return abar
