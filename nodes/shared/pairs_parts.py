"""What nodes that give PAIRS share: the input *fit*, and the pairs shown below the node."""

import logging
from typing import Any

import torch
from PIL import Image

from ...core.pairs.pairs import FITS, EditPair, EditPairs
from ...core.storage.image_tensors import from_image, to_image
from .node import Choice
from .previews import previews

_MOST_PREVIEWS = 16
_PREVIEW_HEIGHT = 192


def fit_input() -> Choice:
    """The input for pairs of two aspect ratios."""
    return Choice(
        "fit",
        options=list(FITS),
        default=FITS[0],
        optional=True,
        tooltip="For pairs whose images differ in aspect ratio. stop: end the run and name the pair. crop: "
        "scale and crop the larger image to the smaller one's size. pad: scale it to fit into that size, and "
        "repeat its border around it.",
        advanced=True,
    )


def pairs_ui(pairs: EditPairs) -> dict[str, list[Any]]:
    """Returns previews of the first pairs and the remarks. Logs the remarks as warnings."""
    for remark in pairs.remarks:
        logging.warning("InstructBrush: %s", remark)
    images = map(_side_by_side, pairs.pairs[:_MOST_PREVIEWS])
    return {**previews(images), "text": ["\n".join(pairs.remarks)]}


def _side_by_side(pair: EditPair) -> torch.Tensor:
    height, width = pair.before.shape[:2]
    size = (max(width * _PREVIEW_HEIGHT // height, 1), _PREVIEW_HEIGHT)
    images = [to_image(frame).resize(size, Image.Resampling.BICUBIC) for frame in (pair.before, pair.after)]
    return torch.cat([from_image(image) for image in images], dim=1)
