"""Images that nodes show."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from comfy_api.latest import ui


def previews(frames: Iterable[torch.Tensor]) -> dict[str, list[Any]]:
    """Images [H, W, 3] as a node's ``ui``. Where ComfyUI's folder for them cannot be written to, those that lack are told in the log: they end no run."""
    images: list[Any] = []
    try:
        for image in frames:
            images += ui.PreviewImage(image[None]).values
    except OSError as error:
        logging.warning("InstructBrush: no preview can be shown: %s", error)
    return {"images": images} if images else {}
