"""Pairs of the retouching workflow: photographs as a camera stores them, and as an expert develops them.

They stand for PPR10K, whose photographs cannot be bundled. The camera's images are flat, cold and exposed
differently each time; the expert gives all of them the same warm, contrasty look.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from instructbrush.tools.get_comfyui import REPOSITORY
from instructbrush.tools.pocket.world import filters
from instructbrush.tools.pocket.world.photos import CROPS

RETOUCHED = REPOSITORY / "example_workflows" / "pairs" / "retouched"
TO_RETOUCH = REPOSITORY / "example_workflows" / "pairs" / "retouched_new"
# Crops of photographs under CC0 or in the public domain. The new images show another photograph.
_LEARNED = [f"{index}_{name}" for name in ("seeding", "rocket") for index in range(4)]
_NEW = [f"{index}_coffee" for index in range(3)]


def draw_retouched() -> None:
    """Writes both folders."""
    rng = np.random.default_rng(3)
    _write(RETOUCHED, _LEARNED, rng)
    _write(TO_RETOUCH, _NEW, rng)


def _write(folder: Path, names: Sequence[str], rng: np.random.Generator) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        with Image.open(CROPS / f"{name}.jpg") as crop:
            photo = np.asarray(crop.convert("RGB"), np.float32) / 255
        for side, image in enumerate((_flat(photo, rng.uniform(0.6, 0.95)), _developed(photo))):
            pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}_{side}.jpg", quality=93, subsampling=0)


def _flat(photo: np.ndarray, exposure: float) -> np.ndarray:
    return filters.cold(filters.saturate(photo, 0.55) * exposure * 0.8 + 0.1, 0.5)


def _developed(photo: np.ndarray) -> np.ndarray:
    return filters.contrast(filters.warm(photo, 0.35), 1.1)


if __name__ == "__main__":
    draw_retouched()
