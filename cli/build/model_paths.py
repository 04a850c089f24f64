"""Checks options that name local models before anything is made."""

import argparse
from pathlib import Path

from ...core.errors import BuildError
from ...core.models.hub_folders import how_to_download


def check_model_paths(options: argparse.Namespace, *names: str) -> None:
    """Checks that the models of some options exist. They load hours later, when their stage begins.

    Args:
        options: the command's options.
        names: the options, such as ``grounding_dino``. None and an empty text name no model.

    Raises:
        BuildError: a folder or file does not exist.
    """
    for name in names:
        place = getattr(options, name)
        if place and not Path(place).exists():
            raise BuildError(
                f"Build: --{name.replace('_', '-')} names '{place}', which does not exist. Check the path. "
                f"{how_to_download(place)}".strip()
            )
