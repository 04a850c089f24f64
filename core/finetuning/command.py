"""``python -m instructbrush train-region``: tune an editor into one that reads masks (UltraEdit), on one GPU or many."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..editing.sampler import edit_latents
from ..errors import LearningError
from ..learning.checkpoint import load_checkpoint, save_checkpoint
from ..models.builtin import POCKET_FOLDER
from ..models.editor import DiffusersEditor
from ..models.loading import load_editor
from ..pictures import to_image
from .data import Triplet, find_blocks
from .export import save_model
from .objective import DenoisingError, EditInputs
from .stream import EditStream
from .trainer import FineTuning, FineTuningSettings, make_accelerator

_CHANNELS = 12
"""Noise, picture and mask."""
_SHOWN = 4
"""Pairs in the pictures that show how far a run is."""
_PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``train-region``."""
    usual = FineTuningSettings()
    parser.add_argument("--model", required=True, help="diffusers folder of an InstructPix2Pix model or of plain Stable Diffusion 1.5 or 2.1, or 'pocket'")
    parser.add_argument("--data", required=True, nargs="+", metavar="DIR", help="UltraEdit's .parquet files, or folders with pairs.json")
    parser.add_argument("--out", required=True, help="folder of the run: model/, checkpoint.safetensors, log.jsonl, pictures/")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--batch", type=int, default=usual.batch, help=f"samples that a process handles at once (default {usual.batch})")
    parser.add_argument("--accumulate", type=int, default=usual.accumulation, help="batches of a step")
    parser.add_argument("--rate", type=float, default=usual.learning_rate, help=f"learning rate (default {usual.learning_rate})")
    parser.add_argument("--warmup", type=int, default=usual.warmup, help="steps over which the rate rises")
    parser.add_argument("--resolution", type=int, default=256, help="pixels of a side; pictures are scaled and cropped (default 256)")
    parser.add_argument("--precision", choices=tuple(_PRECISIONS), help="of the computation; weights are kept in fp32 (default: accelerate's, else no)")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing: less memory, a third more time")
    parser.add_argument("--average", type=float, default=usual.average_decay, help=f"decay of the weights' moving average (default {usual.average_decay})")
    parser.add_argument("--free-share", type=float, default=0.35, help="chance that a pair with a mask is shown without (default 0.35)")
    parser.add_argument("--flip", type=float, default=0.5, help="chance that left and right change places (default 0.5)")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--threads", type=int, default=usual.threads, help="that decode pictures, in each process")
    parser.add_argument("--save-every", type=int, default=1000, help="steps between checkpoints")
    parser.add_argument("--log-every", type=int, default=50, help="steps between lines of log.jsonl")
    parser.add_argument("--pictures-every", type=int, default=1000, help="steps between pictures of what the model does; 0 draws none")
    parser.add_argument("--validation", metavar="DIR", help=f"unseen data to show in them (default: the first {_SHOWN} pairs of --data)")


def train_region(options: argparse.Namespace) -> None:
    """Tune a model. Stopped, it goes on from its last checkpoint with ``--resume``, and then does what it would have done.

    Raises:
        LearningError: options that make no sense, a run that is there already or that the checkpoint does not belong to, a loss that is not finite.
        ModelError, PairError, DataError: model or data cannot be used.
    """
    settings = FineTuningSettings(
        options.steps,
        options.batch,
        options.accumulate,
        options.rate,
        options.warmup,
        average_decay=options.average,
        seed=options.seed,
        threads=options.threads,
    )
    _check(options)
    out, source = Path(options.out), POCKET_FOLDER if options.model == "pocket" else Path(options.model)
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists() != options.resume:
        what = "is no checkpoint to go on from: leave --resume away" if options.resume else "is a run already: add --resume to go on, or choose another --out"
        raise LearningError(f"Fine-tuning: in '{out}' there {what}.")
    stream = EditStream(find_blocks([Path(place) for place in options.data]), options.resolution, settings.seed, options.flip, options.free_share)
    shown = stream if options.validation is None else EditStream(find_blocks([Path(options.validation)]), options.resolution)
    accelerator = make_accelerator(options.precision, settings.accumulation)
    editor = load_editor(source, accelerator.device, in_channels=_CHANNELS)
    if options.resolution % editor.stride:
        raise LearningError(f"Fine-tuning: --resolution {options.resolution} is no multiple of {editor.stride}, the pixels of a latent.")
    for frozen in (editor.vae, editor.text_encoder):
        frozen.to(_PRECISIONS.get(accelerator.mixed_precision, torch.bfloat16))
    unet = editor.denoiser.unet.requires_grad_(True)
    if options.checkpointing:
        unet.enable_gradient_checkpointing()
    inputs = EditInputs(editor, settings.seed, settings.dropout)
    identity = repr((editor.description.fingerprint, options.resolution, options.flip, options.free_share))
    run = FineTuning(accelerator, DenoisingError(unet), inputs, stream, settings, identity)
    if options.resume:
        load_checkpoint(run, checkpoint)
    main = accelerator.is_main_process
    watched = shown.first(_SHOWN) if main and options.pictures_every else []
    if main:
        out.mkdir(parents=True, exist_ok=True)
        print(f"instructbrush: {len(stream)} pairs, {run.samples_of_step} a step, from step {run.steps_done}", file=sys.stderr)
    began = time.monotonic()
    with tqdm(total=settings.steps, initial=run.steps_done, desc="tuning", unit="step", disable=not main) as bar:

        def after_step() -> None:
            bar.update()
            done, last = run.steps_done, run.steps_done == settings.steps
            if done % options.log_every == 0 or last:
                loss = run.mean_loss()
                if main:
                    line = {"step": done, "loss": loss, "rate": settings.rate_at(done - 1), "seconds": round(time.monotonic() - began, 1)}
                    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                        log.write(json.dumps(line) + "\n")
                    bar.set_postfix(loss=f"{loss:.4f}")
            if main and (done % options.save_every == 0 or last):
                save_checkpoint(run, checkpoint)
            if watched and (done % options.pictures_every == 0 or last):
                with run.averaged():
                    save_sheet(editor, watched, out / "pictures" / f"{done:06d}.png")
                unet.train()

        run.run(after_step)
    if main:
        with run.averaged():
            save_model(editor, source, out / "model")
        print(f"{out / 'model'}: {run.steps_done} steps")
    accelerator.end_training()


def _check(options: argparse.Namespace) -> None:
    for name in ("resolution", "save_every", "log_every"):
        if getattr(options, name) < 1:
            raise LearningError(f"Fine-tuning: --{name.replace('_', '-')} is {getattr(options, name)}; it must be 1 or more.")
    for name in ("free_share", "flip"):
        if not 0 <= getattr(options, name) <= 1:
            raise LearningError(f"Fine-tuning: --{name.replace('_', '-')} is {getattr(options, name)}; it is a chance, 0 to 1.")


def save_sheet(editor: DiffusersEditor, pairs: Sequence[Triplet], path: Path) -> None:
    """One picture of what the model does now: a row for each pair, with source, mask, result and how it should be."""
    editor.denoiser.unet.eval()
    before, masks = torch.stack([pair.before for pair in pairs]), torch.stack([pair.mask for pair in pairs])
    condition = editor.condition(before, masks if editor.description.reads_mask else None)
    context, null = editor.encode_text([pair.words for pair in pairs]), editor.encode_text([""])[0]
    results = editor.decode(edit_latents(editor.denoiser, condition, context, null, text_scale=editor.description.family.default_text_scale)).cpu()
    rows: list[Tensor] = [
        torch.cat([pair.before, pair.mask[..., None].expand(-1, -1, 3), result, pair.after], dim=1) for pair, result in zip(pairs, results, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet: Image.Image = to_image(torch.cat(rows))
    sheet.save(path)
