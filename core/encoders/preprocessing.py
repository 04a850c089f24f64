"""Prepares images for image encoders, as open_clip does."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ModelError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """Resizes, crops and normalizes images, as open_clip's ``PreprocessCfg`` describes."""

    size: tuple[int, int] = (224, 224)
    """Height and width in pixels after the crop."""
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    """``shortest`` keeps the aspect ratio and crops; ``squash`` scales to ``size``."""
    resize: int | None = None
    """Size in pixels to which the shorter side is scaled before the crop; None scales to ``size``."""

    def __call__(self, images: Tensor) -> Tensor:
        """Prepares images [B, H, W, 3] in 0..1 as [B, 3, h, w].

        Scales with antialiasing and clips to 0..1, like PIL.

        Raises:
            ModelError: the images are not [B, H, W, 3].
        """
        if images.ndim != 4 or images.shape[3] != 3 or not images.numel():
            raise ModelError(
                f"Images of shape {tuple(images.shape)} do not fit; [batch, height, width, 3] is needed."
            )
        pixels = images.movedim(3, 1).float()
        height, width = self.size
        scaled = self._scaled_size(*pixels.shape[2:])
        if scaled != tuple(pixels.shape[2:]):
            pixels = functional.interpolate(pixels, scaled, mode=self.interpolation, antialias=True)
            pixels = pixels.clamp(0, 1)
        top = round((scaled[0] - height) / 2)
        left = round((scaled[1] - width) / 2)
        pixels = pixels[:, :, top : top + height, left : left + width]
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels - mean) / std

    def _scaled_size(self, rows: int, columns: int) -> tuple[int, int]:
        height, width = self.size
        if self.resize_mode == "squash":
            return height, width
        # Like torchvision's Resize: the shorter side is exact, the longer one is rounded down.
        short = min(rows, columns)
        side = self.resize or height
        return side * rows // short, side * columns // short
