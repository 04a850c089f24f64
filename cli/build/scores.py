"""Options for scoring pairs: models and thresholds."""

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from ...core.generation.scoring import POCKET_THRESHOLDS, ScoringModels, Thresholds
from ..options import finite_float

_POCKET = "pocket"
SCORING = ("clip_folder", "dino")
"""The options that name local models."""


def add_score_options(group: Any, default: Thresholds, without: Sequence[str] = ()) -> None:
    """Adds the options.

    Args:
        group: gets the options.
        default: thresholds for all models but the built-in CLIP.
        without: thresholds that the build does not use.
    """
    group.add_argument("--clip", default=_POCKET, help="CLIP of the scores (default pocket)")
    group.add_argument(
        "--clip-folder", default="", metavar="FOLDER", help="folder with the CLIP's weights (default none)"
    )
    group.add_argument("--dino", default="", metavar="FOLDER", help="DINOv2 (default none)")
    for each in (each for each in fields(Thresholds) if each.name not in without):
        name = each.name.replace("_", "-")
        group.add_argument(
            f"--{name}" if name.startswith("least") else f"--least-{name}",
            type=finite_float,
            dest=each.name,
            help=f"threshold (default {getattr(default, each.name):g}; with the built-in CLIP "
            f"{getattr(POCKET_THRESHOLDS, each.name):g})",
        )


def scoring_models(options: argparse.Namespace) -> ScoringModels:
    """Returns the models that score."""
    return ScoringModels(options.clip, options.clip_folder, options.dino, options.device)


def thresholds_of(options: argparse.Namespace, default: Thresholds) -> Thresholds:
    """Returns the thresholds of the options, and for others those of the built-in CLIP or ``default``."""
    given = {each.name: getattr(options, each.name, None) for each in fields(Thresholds)}
    chosen = POCKET_THRESHOLDS if options.clip == _POCKET else default
    return replace(chosen, **{name: value for name, value in given.items() if value is not None})
