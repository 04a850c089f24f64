"""Reading masks from image files."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from instructbrush.core.errors import RegionError
from instructbrush.core.regions.mask_files import mask_from_image, read_mask

WHITE = torch.zeros(16, 24)
WHITE[:, :6] = 1


def levels(low: int = 0, high: int = 255) -> Image.Image:
    """The region in grey levels."""
    return Image.fromarray((low + (high - low) * WHITE).to(torch.uint8).numpy())


def photograph(grey: bool = False) -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 240, (16, 24, 3), dtype=np.uint8)
    return Image.fromarray(colours).convert("L").convert("RGB") if grey else Image.fromarray(colours)


def with_alpha(image: Image.Image, alpha: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(alpha)
    return image


def saved(image: Image.Image, kind: str = "PNG") -> BytesIO:
    content = BytesIO()
    image.save(content, kind)
    content.seek(0)
    return content


@pytest.mark.parametrize(
    "image",
    [
        levels(),
        levels().convert("1"),
        levels().convert("P"),
        levels().convert("RGB"),
        levels().convert("LA"),
        levels().convert("RGBA"),
        levels(0, 1),
        Image.fromarray((WHITE * 65535).numpy().astype(np.uint16)),
        # With constant alpha, the colors decide.
        with_alpha(levels(), Image.new("L", (24, 16), 128)),
        with_alpha(levels(), Image.new("L", (24, 16), 0)),
        # ComfyUI's mask editor (black, transparent where painted) and MagicBrush (the image, erased).
        with_alpha(Image.new("RGB", (24, 16)), levels(255, 0)),
        with_alpha(photograph(), levels(255, 0)),
        with_alpha(photograph(grey=True), levels(255, 0)),
        # White painted on an empty image.
        with_alpha(Image.new("RGB", (24, 16), "white"), levels()),
        with_alpha(levels(), levels()),
    ],
)
def test_reads_the_channel_that_holds_the_region(image: Image.Image) -> None:
    assert torch.equal(read_mask(saved(image), "m.png"), WHITE)


def test_keeps_soft_edges() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1)))
    soft = torch.from_numpy(np.asarray(ramp, dtype=np.float32) / 255)
    assert torch.equal(read_mask(saved(ramp), "m.png"), soft)
    torch.testing.assert_close(
        read_mask(saved(with_alpha(photograph(), ramp)), "m.png"), 1 - soft, rtol=0, atol=1e-6
    )


def test_reads_constant_masks() -> None:
    def whole(image: Image.Image) -> float:
        found = mask_from_image(image)
        assert found is not None and (found == found[0, 0]).all()
        return float(found[0, 0])

    assert whole(Image.new("L", (8, 8), 0)) == 0 and whole(Image.new("L", (8, 8), 255)) == 1
    assert (
        whole(Image.new("RGBA", (8, 8), (0, 0, 0, 0))) == 1
        and whole(Image.new("RGBA", (8, 8), (0, 0, 0, 255))) == 0
    )


def test_accepts_rounding_of_jpeg() -> None:
    found: Tensor = read_mask(saved(levels().convert("RGB"), "JPEG"), "m.jpg")
    assert torch.equal((found > 0.5).float(), WHITE)


def test_rejects_images_that_mark_no_region(tmp_path: Path) -> None:
    with pytest.raises(
        RegionError,
        match=r"^Mask 'm\.png' is a colored image without transparency, so it marks no region\. A mask is "
        r"white where",
    ):
        read_mask(saved(photograph()), "m.png")
    (tmp_path / "m.png").write_bytes(b"no image")
    with pytest.raises(RegionError, match=r"^Mask: Image 'm\.png' cannot be read \("):
        read_mask(tmp_path / "m.png", "m.png")
