"""``python -m instructbrush finetune``: trains an editor on free-form edits (InstructPix2Pix)."""

import argparse
from pathlib import Path

from ...core.finetuning.accelerator import make_accelerator
from ...core.finetuning.dataset import find_blocks
from ...core.finetuning.export import save_model
from ...core.finetuning.objective import DenoisingLoss, EditInputs
from ...core.finetuning.stream import EditStream
from ...core.finetuning.trainer import FineTuning
from .model import SAMPLE_PAIRS, load_model, model_identity, prepare_model, save_sample_image
from .options import add_run_options, check_probability, read_settings
from .run import train_to_end

# Input channels: noise and image.
CHANNELS = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``finetune``."""
    add_run_options(parser)
    parser.add_argument(
        "--flip", type=float, default=0.5, help="probability of a horizontal flip (default 0.5)"
    )


def finetune(options: argparse.Namespace) -> None:
    """Trains a model that reads an image and words. Masks in the data only decide where images are cropped.

    Raises:
        LearningError, ModelError, PairError, DataError: see ``train_editor``.
    """
    train_editor(options, CHANNELS)


def train_editor(options: argparse.Namespace, channels: int, white_share: float | None = None) -> None:
    """Trains an editor. ``--resume`` continues exactly from the last checkpoint.

    Args:
        options: see ``add_options``.
        channels: input channels, 8, or 12 with a mask.
        white_share: share of pairs with a mask that are shown with a white one. None if the model reads none.

    Raises:
        LearningError: an option is invalid, the run already exists, the checkpoint belongs to another run, or
            the loss is not finite.
        ModelError, PairError, DataError: model or data cannot be used.
    """
    settings = read_settings(options)
    check_probability(options, "flip")
    blocks = find_blocks([Path(place) for place in options.data], options.strict)
    stream = EditStream(blocks, options.resolution, settings.seed, options.flip, white_share or 0.0)
    shown = stream
    if options.validation:
        shown = EditStream(find_blocks([Path(options.validation)]), options.resolution)
    accelerator = make_accelerator(options.precision, settings.accumulation)
    editor, source = load_model(options, accelerator.device, channels)
    unet = prepare_model(editor, accelerator, options.checkpointing, options.freeze)
    identity = {**model_identity(options, editor), "flip": options.flip}
    if white_share is None:
        identity["channels"] = channels
    else:
        identity["free share"] = white_share
    inputs = EditInputs(editor, settings.seed, settings.dropout, settings.snr_limit)
    run = FineTuning(accelerator, DenoisingLoss(unet), inputs, stream, settings, identity)
    draws = options.pictures_every and accelerator.is_main_process
    watched = shown.first_pairs(SAMPLE_PAIRS) if draws else []
    train_to_end(
        run,
        options,
        draw_samples=(lambda path: save_sample_image(editor, watched, path)) if watched else None,
        save_result=lambda folder: save_model(editor, source, folder),
    )
