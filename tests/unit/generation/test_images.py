"""Images of rows."""

from io import BytesIO

import pytest
import torch
from PIL import Image

from instructbrush.core.generation.errors import Refused
from instructbrush.core.generation.images import square
from instructbrush.core.storage.image_files import decode_image


def encoded(image: Image.Image, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, **options)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def test_the_square_is_cut_out_of_the_upright_image() -> None:
    image = Image.new("RGB", (60, 40), "red")
    image.paste("blue", (0, 0, 60, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(image, format="JPEG", exif=exif, quality=95)
    made = square(content, "turned", 40)
    assert torch.equal(made, decode_image(BytesIO(content), "turned", 40))
    assert made.shape == (40, 40, 3)
    # Turned clockwise, the upper edge is at the right.
    assert made[20, 36, 2] > 0.8 and made[20, 4, 0] > 0.8


def test_images_are_enlarged_at_most_twice() -> None:
    assert square(encoded(Image.new("RGB", (50, 32)), format="PNG"), "a", 64).shape == (64, 64, 3)
    with pytest.raises(Refused, match="too small") as refusal:
        square(encoded(Image.new("RGB", (50, 31)), format="PNG"), "a", 64)
    assert refusal.value.detail == "50 x 31; 64 are wanted"


def test_an_images_remarks_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    square(encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:]), "moving", 64)
    assert caplog.text.count("several frames") == 1
