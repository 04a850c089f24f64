"""The model that a fine-tuning command trains: loading, preparing, and drawing sample images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.editing.editor import DiffusersEditor
from ...core.editing.loading import load_editor
from ...core.errors import LearningError
from ...core.finetuning.training_pairs import TrainingPair
from ...core.models.builtin import POCKET_FOLDER
from ...core.models.hub_folders import model_folder
from ...core.models.widening import input_channels, randomize_new_channels
from ...core.storage.image_files import save_image
from ...core.storage.image_tensors import to_image

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

# Pairs in a sample image.
SAMPLE_PAIRS = 4

# --freeze -> beginnings or parts of parameters' names in a diffusers UNet.
FROZEN_PARTS = {
    "keys-values": (".attn2.to_k.", ".attn2.to_v."),
    "middle": ("mid_block.",),
    "time": ("time_embedding.",),
}

# --precision -> precision of the frozen VAE and text encoder.
_FROZEN_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_model(
    options: argparse.Namespace, device: torch.device, in_channels: int
) -> tuple[DiffusersEditor, Path]:
    """Loads the model of ``--model`` and widens its input to ``in_channels``, as ``--new-channels`` says.

    Returns:
        The editor, in the precision it is stored in, and the folder it was loaded from.

    Raises:
        LearningError: ``--resolution`` does not fit the model.
        ModelError: the model cannot be used.
    """
    source = POCKET_FOLDER if options.model == "pocket" else model_folder(options.model)
    editor = load_editor(source, device, in_channels=in_channels)
    if options.resolution % editor.stride:
        raise LearningError(
            f"Fine-tuning: --resolution {options.resolution} is not a multiple of {editor.stride}, the "
            "pixels of a latent."
        )
    if options.new_channels == "random":
        randomize_new_channels(editor.denoiser.unet, input_channels(source), options.seed)
    return editor, source


def model_identity(options: argparse.Namespace, editor: DiffusersEditor) -> dict[str, Any]:
    """Returns what identifies the model of a run and how it is shown to it. Defaults are left out."""
    identity = {"model": editor.description.fingerprint, "resolution": options.resolution}
    if options.new_channels != "zero":
        identity["new channels"] = options.new_channels
    if options.freeze:
        identity["freeze"] = sorted(set(options.freeze))
    return identity


def prepare_model(
    editor: DiffusersEditor,
    accelerator: Accelerator,
    checkpointing: bool = False,
    freeze: Sequence[str] = (),
) -> UNet2DConditionModel:
    """Casts the frozen parts to the run's precision and makes the UNet trainable. Returns the UNet.

    Args:
        editor: the model.
        accelerator: accelerator of the run.
        checkpointing: use gradient checkpointing.
        freeze: keys of ``FROZEN_PARTS`` that are not trained.
    """
    dtype = _FROZEN_DTYPES.get(accelerator.mixed_precision, torch.bfloat16)
    for frozen in (editor.vae, editor.text_encoder):
        # diffusers' own ``to`` would log warnings.
        torch.nn.Module.to(frozen, dtype=dtype)
    unet = editor.denoiser.unet
    network: torch.nn.Module = unet
    # Files store contiguous weights only.
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    kept = [part for name in freeze for part in FROZEN_PARTS[name]]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not any(part in name for part in kept))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def save_sample_image(
    editor: DiffusersEditor, pairs: Sequence[TrainingPair], path: Path, context: Tensor | None = None
) -> None:
    """Edits pairs with the current model and saves the results as one image.

    Each row shows a pair: source, mask (if the model reads one), result, target.

    Args:
        editor: the model.
        pairs: pairs of one size.
        path: file to write.
        context: text states of each pair [B, L, D]; None encodes the pairs' words.
    """
    reads_mask = editor.description.reads_mask
    unet = editor.denoiser.unet.eval()
    before = torch.stack([pair.before for pair in pairs])
    masks = torch.stack([pair.mask for pair in pairs]) if reads_mask else None
    instructions = [pair.words for pair in pairs] if context is None else context
    results = editor.edit(before, instructions, masks=masks).cpu()
    unet.train()
    rows = []
    for pair, result in zip(pairs, results, strict=True):
        mask = [pair.mask[..., None].expand(-1, -1, 3)] if reads_mask else []
        rows.append(torch.cat([pair.before, *mask, result, pair.after], dim=1))
    save_image(to_image(torch.cat(rows)), path)
