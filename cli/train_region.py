"""``python -m instructbrush train-region``: tune an editor into one that reads masks (UltraEdit), on one GPU or many."""

import argparse
from pathlib import Path

from ..core.errors import LearningError
from ..core.finetuning.dataset import find_blocks
from ..core.finetuning.export import save_model
from ..core.finetuning.objective import DenoisingError, EditInputs
from ..core.finetuning.stream import EditStream
from ..core.finetuning.trainer import FineTuning, make_accelerator
from .training_run import SHOWN, add_run_options, carry_out, load_tunable, make_ready, save_sheet, settings_of

_CHANNELS = 12
"""Noise, image and mask."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``train-region``."""
    add_run_options(parser)
    parser.add_argument(
        "--flip", type=float, default=0.5, help="chance that left and right change places (default 0.5)"
    )
    parser.add_argument(
        "--free-share",
        type=float,
        default=0.35,
        help="chance that a pair with a mask is shown as if it had none (default 0.35)",
    )


def train_region(options: argparse.Namespace) -> None:
    """Tune a model. Stopped, it goes on from its last checkpoint with ``--resume``, and then does what it would have done.

    Raises:
        LearningError: options that make no sense, a run that is there already or that the checkpoint does not belong to, a loss that is not finite.
        ModelError, PairError, DataError: model or data cannot be used.
    """
    settings = settings_of(options)
    for name in ("flip", "free_share"):
        if not 0 <= getattr(options, name) <= 1:
            raise LearningError(
                f"Fine-tuning: --{name.replace('_', '-')} is {getattr(options, name)}; it is a chance, 0 to 1."
            )
    blocks = find_blocks([Path(place) for place in options.data], options.strict)
    stream = EditStream(blocks, options.resolution, settings.seed, options.flip, options.free_share)
    seen = (
        EditStream(find_blocks([Path(options.validation)]), options.resolution)
        if options.validation
        else stream
    )
    accelerator = make_accelerator(options.precision, settings.accumulation)
    editor, source = load_tunable(options, accelerator.device, _CHANNELS)
    unet = make_ready(editor, accelerator, options.checkpointing)
    identity = {
        "model": editor.description.fingerprint,
        "resolution": options.resolution,
        "flip": options.flip,
        "free share": options.free_share,
    }
    run = FineTuning(
        accelerator,
        DenoisingError(unet),
        EditInputs(editor, settings.seed, settings.dropout),
        stream,
        settings,
        identity,
    )
    watched = seen.first(SHOWN) if options.pictures_every and accelerator.is_main_process else []
    carry_out(
        run,
        options,
        (lambda path: save_sheet(editor, watched, path)) if watched else None,
        lambda folder: save_model(editor, source, folder),
    )
