"""Preview images below nodes."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from comfy_api.latest import ui


def previews(frames: Iterable[torch.Tensor]) -> dict[str, list[Any]]:
    """Writes images [H, W, 3] for a node's ``ui``.

    If ComfyUI's temporary folder cannot be written to, the rest is skipped with a warning, so that the run
    goes on.
    """
    images: list[Any] = []
    try:
        for image in frames:
            images += ui.PreviewImage(image[None]).values
    except OSError as error:
        logging.warning("InstructBrush: no preview can be shown: %s", error)
    return {"images": images} if images else {}
