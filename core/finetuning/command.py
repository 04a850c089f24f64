"""``python -m instructbrush train-region``: tune an editor into one that reads masks (UltraEdit), on one GPU or many."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ..editing.sampler import edit_latents
from ..errors import LearningError
from ..models.builtin import POCKET_FOLDER
from ..models.editor import DiffusersEditor
from ..models.loading import load_editor
from ..pictures import to_image
from .data import Triplet, find_blocks
from .export import save_model
from .objective import DenoisingError, EditInputs
from .session import add_run_options, carry_out, settings_of
from .stream import EditStream
from .trainer import FineTuning, make_accelerator

_CHANNELS = 12
"""Noise, picture and mask."""
_SHOWN = 4
"""Pairs in the pictures that show how far a run is."""
_FROZEN = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision of the computation -> that of VAE and text encoder."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``train-region``."""
    parser.add_argument("--model", required=True, help="diffusers folder of an InstructPix2Pix model or of plain Stable Diffusion 1.5 or 2.1, or 'pocket'")
    add_run_options(parser)
    parser.add_argument("--free-share", type=float, default=0.35, help="chance that a pair with a mask is shown as if it had none (default 0.35)")


def train_region(options: argparse.Namespace) -> None:
    """Tune a model. Stopped, it goes on from its last checkpoint with ``--resume``, and then does what it would have done.

    Raises:
        LearningError: options that make no sense, a run that is there already or that the checkpoint does not belong to, a loss that is not finite.
        ModelError, PairError, DataError: model or data cannot be used.
    """
    settings = settings_of(options)
    if not 0 <= options.free_share <= 1:
        raise LearningError(f"Fine-tuning: --free-share is {options.free_share}; it is a chance, 0 to 1.")
    stream = EditStream(find_blocks([Path(place) for place in options.data]), options.resolution, settings.seed, options.flip, options.free_share)
    seen = EditStream(find_blocks([Path(options.validation)]), options.resolution) if options.validation else stream
    accelerator = make_accelerator(options.precision, settings.accumulation)
    source = POCKET_FOLDER if options.model == "pocket" else Path(options.model)
    editor = load_editor(source, accelerator.device, in_channels=_CHANNELS)
    if options.resolution % editor.stride:
        raise LearningError(f"Fine-tuning: --resolution {options.resolution} is no multiple of {editor.stride}, the pixels of a latent.")
    for frozen in (editor.vae, editor.text_encoder):
        torch.nn.Module.to(frozen, dtype=_FROZEN.get(accelerator.mixed_precision, torch.bfloat16))  # diffusers' own warns of nothing
    unet = editor.denoiser.unet.requires_grad_(True)
    if options.checkpointing:
        unet.enable_gradient_checkpointing()
    identity = repr((editor.description.fingerprint, options.resolution, options.flip, options.free_share))
    run = FineTuning(accelerator, DenoisingError(unet), EditInputs(editor, settings.seed, settings.dropout), stream, settings, identity)
    watched = seen.first(_SHOWN) if options.pictures_every and accelerator.is_main_process else []
    carry_out(run, options, (lambda path: save_sheet(editor, watched, path)) if watched else None, lambda folder: save_model(editor, source, folder))


def save_sheet(editor: DiffusersEditor, pairs: Sequence[Triplet], path: Path) -> None:
    """One picture of what the model does now: a row for each pair, with source, mask, result and how it should be."""
    unet = editor.denoiser.unet.eval()
    before, masks = torch.stack([pair.before for pair in pairs]), torch.stack([pair.mask for pair in pairs])
    condition = editor.condition(before, masks if editor.description.reads_mask else None)
    context, null = editor.encode_text([pair.words for pair in pairs]), editor.encode_text([""])[0]
    results = editor.decode(edit_latents(editor.denoiser, condition, context, null, text_scale=editor.description.family.default_text_scale)).cpu()
    unet.train()
    rows = [torch.cat([pair.before, pair.mask[..., None].expand(-1, -1, 3), result, pair.after], dim=1) for pair, result in zip(pairs, results, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    to_image(torch.cat(rows)).save(path)
