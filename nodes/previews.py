"""Pictures that nodes show."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from comfy_api.latest import ui


def previews(pictures: Iterable[torch.Tensor]) -> dict[str, list[Any]]:
    """Pictures [H, W, 3] as a node's ``ui``. Where ComfyUI's folder for them cannot be written to, those that lack are told in the log: they end no run."""
    images: list[Any] = []
    try:
        for picture in pictures:
            images += ui.PreviewImage(picture[None]).values
    except OSError as error:
        logging.warning("InstructBrush: no preview can be shown: %s", error)
    return {"images": images} if images else {}
