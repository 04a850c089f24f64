"""Checks of IMAGE inputs."""

import math

import pytest
import torch

from instructbrush.core.errors import PairError, RegionError
from instructbrush.core.storage.image_tensors import image_batch


def test_accepts_images_of_usual_shapes() -> None:
    colours = torch.rand(2, 5, 7, 4)
    assert torch.equal(image_batch(colours, "Image"), colours)
    assert image_batch(torch.rand(2, 5, 7, 6), "Image").shape == (2, 5, 7, 4)
    assert image_batch(torch.rand(5, 7, 3), "Image").shape == (1, 5, 7, 3)
    grey = torch.rand(2, 5, 7, 1)
    assert torch.equal(image_batch(grey, "Image"), torch.cat([grey] * 3, dim=-1))
    highlights = torch.full((1, 5, 7, 3), 2.0)
    assert torch.equal(image_batch(highlights, "Image"), highlights)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, r"Image: images are needed, not NoneType\. Connect an IMAGE\."),
        ("a.png", r"Image: images are needed, not str\."),
        (
            torch.rand(5, 7),
            r"Image: its shape is \(5, 7\), images have \[batch, height, width, 3\]\. "
            r"Connect an IMAGE with at least one image\.",
        ),
        (torch.rand(0, 5, 7, 3), r"Image: its shape is \(0, 5, 7, 3\)"),
        (torch.rand(1, 5, 7, 2), r"Image: its shape is \(1, 5, 7, 2\)"),
        (torch.rand(1, 3, 64, 64), r"Image: its shape is \(1, 3, 64, 64\)"),
        (
            torch.full((1, 5, 7, 3), math.nan),
            r"Image: image 1 of 1 holds values that are not finite\. "
            r"Check the node that made it: values run from 0 to 1\.",
        ),
        (
            torch.full((1, 5, 7, 3), 255, dtype=torch.uint8),
            r"Image: image 1 of 1 holds values up to 255\. Scale them: values run from 0 to 1\.",
        ),
    ],
)
def test_rejects_what_is_not_an_image(images: object, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        image_batch(images, "Image", RegionError)
    with pytest.raises(PairError):
        image_batch(images, "Image", PairError)
