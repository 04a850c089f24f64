"""``python -m instructbrush train-region``: fine-tunes an editor to read masks (UltraEdit)."""

import argparse

from . import finetune
from .options import check_probability

# Input channels: noise, image and mask.
_CHANNELS = 12


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``train-region``."""
    finetune.add_options(parser)
    parser.add_argument(
        "--white-mask-share",
        "--free-share",
        type=float,
        default=0.35,
        help="probability that a pair with a mask is trained with a white one, like a free-form edit "
        "(default 0.35; 0 as UltraEdit)",
    )


def train_region(options: argparse.Namespace) -> None:
    """Trains a model that reads an image, words and a mask.

    Raises:
        LearningError, ModelError, PairError, DataError: see ``train_editor``.
    """
    check_probability(options, "white_mask_share")
    finetune.train_editor(options, _CHANNELS, options.white_mask_share)
