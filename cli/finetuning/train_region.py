"""``python -m instructbrush train-region``: fine-tunes an editor to read masks (UltraEdit)."""

import argparse
from pathlib import Path

from ...core.finetuning.accelerator import make_accelerator
from ...core.finetuning.dataset import find_blocks
from ...core.finetuning.export import save_model
from ...core.finetuning.objective import DenoisingLoss, EditInputs
from ...core.finetuning.stream import EditStream
from ...core.finetuning.trainer import FineTuning
from .model import SAMPLE_PAIRS, load_model, prepare_model, save_sample_image
from .options import add_run_options, check_probability, read_settings
from .run import train_to_end

# Input channels: noise, image and mask.
_CHANNELS = 12


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``train-region``."""
    add_run_options(parser)
    parser.add_argument(
        "--flip", type=float, default=0.5, help="probability of a horizontal flip (default 0.5)"
    )
    parser.add_argument(
        "--free-share",
        type=float,
        default=0.35,
        help="probability that a pair with a mask is shown without it (default 0.35)",
    )


def train_region(options: argparse.Namespace) -> None:
    """Fine-tunes a model. ``--resume`` continues exactly from the last checkpoint.

    Raises:
        LearningError: an option is invalid, the run already exists, the checkpoint belongs to another run, or
            the loss is not finite.
        ModelError, PairError, DataError: model or data cannot be used.
    """
    settings = read_settings(options)
    check_probability(options, "flip")
    check_probability(options, "free_share")
    blocks = find_blocks([Path(place) for place in options.data], options.strict)
    stream = EditStream(blocks, options.resolution, settings.seed, options.flip, options.free_share)
    shown = stream
    if options.validation:
        shown = EditStream(find_blocks([Path(options.validation)]), options.resolution)
    accelerator = make_accelerator(options.precision, settings.accumulation)
    editor, source = load_model(options, accelerator.device, _CHANNELS)
    unet = prepare_model(editor, accelerator, options.checkpointing)
    identity = {
        "model": editor.description.fingerprint,
        "resolution": options.resolution,
        "flip": options.flip,
        "free share": options.free_share,
    }
    loss = DenoisingLoss(unet)
    inputs = EditInputs(editor, settings.seed, settings.dropout)
    run = FineTuning(accelerator, loss, inputs, stream, settings, identity)
    draws = options.pictures_every and accelerator.is_main_process
    watched = shown.first_pairs(SAMPLE_PAIRS) if draws else []
    train_to_end(
        run,
        options,
        draw_samples=(lambda path: save_sample_image(editor, watched, path)) if watched else None,
        save_result=lambda folder: save_model(editor, source, folder),
    )
