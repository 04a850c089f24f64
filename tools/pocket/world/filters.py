"""Filters for whole images: float arrays [128, 128, 3] in 0..1 to arrays of the same kind.

Tone filters also suit photographs.
"""

from __future__ import annotations

import numpy as np

from .drawing import SIZE, XX, YY, disc, paint

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Snow and rain fall in the same places every time, so that a small model can learn the pattern and PSNR can
# judge it.
_fixed = np.random.default_rng(7)
FLAKES = [
    (x, y, r)
    for x, y, r in zip(
        _fixed.uniform(0, SIZE, 30), _fixed.uniform(0, SIZE, 30), _fixed.uniform(2.6, 4.2, 30), strict=True
    )
]
DROPS = [(12.0 + 24 * column + 9 * (row % 2), 10.0 + 22 * row) for row in range(6) for column in range(5)]


def rgb(*values: float) -> np.ndarray:
    """Returns a float32 color."""
    return np.array(values, np.float32)


def luma(image: np.ndarray) -> np.ndarray:
    """Returns the brightness [H, W, 1]."""
    return (image @ LUMA)[..., None]


def duotone(image: np.ndarray, dark: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Maps brightness to a blend of `dark` and `light`."""
    grey = luma(image)
    return dark * (1 - grey) + light * grey


def sepia(image: np.ndarray) -> np.ndarray:
    """Makes an old brown photograph."""
    return duotone(image, rgb(0.16, 0.09, 0.03), rgb(1.0, 0.93, 0.76))


def grey(image: np.ndarray) -> np.ndarray:
    """Makes a black and white image."""
    return np.repeat(luma(image), 3, 2)


def hue(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates every color about the gray axis."""
    angle = np.deg2rad(degrees)
    cos = np.cos(angle)
    third = (1 - cos) / 3
    root = np.sqrt(1 / 3) * np.sin(angle)
    turn = np.array(
        [
            [cos + third, third - root, third + root],
            [third + root, cos + third, third - root],
            [third - root, third + root, cos + third],
        ],
        np.float32,
    )
    return np.clip(image @ turn.T, 0, 1)


def tint(image: np.ndarray, colour: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """Blends towards brightness times `colour`."""
    return np.clip(image * (1 - strength) + strength * (luma(image) * 0.75 + 0.25) * colour * 1.25, 0, 1)


def warm(image: np.ndarray, amount: float = 1.0) -> np.ndarray:
    """Raises red, lowers blue."""
    return np.clip(image * (1 + amount * rgb(0.15, 0, -0.3)) + amount * rgb(0.05, 0.01, 0), 0, 1)


def cold(image: np.ndarray, amount: float = 1.0) -> np.ndarray:
    """Lowers red, raises blue."""
    return np.clip(image * (1 + amount * rgb(-0.3, -0.05, 0.15)) + amount * rgb(0, 0.01, 0.05), 0, 1)


def brighter(image: np.ndarray, amount: float = 0.35) -> np.ndarray:
    """Blends towards white."""
    return image * (1 - amount) + amount


def darker(image: np.ndarray, amount: float = 0.5) -> np.ndarray:
    """Scales towards black."""
    return image * (1 - amount)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Increases (above 1) or reduces (below 1) the difference to mid gray."""
    return np.clip((image - 0.5) * factor + 0.5, 0, 1)


def saturate(image: np.ndarray, factor: float) -> np.ndarray:
    """Increases (above 1) or reduces (below 1) the difference of each color to its own gray."""
    grey_image = luma(image)
    return np.clip(grey_image + (image - grey_image) * factor, 0, 1)


def fade(image: np.ndarray) -> np.ndarray:
    """Makes colors pale and low in contrast."""
    return saturate(image, 0.5) * 0.6 + 0.28


def vignette(image: np.ndarray, amount: float = 1.0) -> np.ndarray:
    """Darkens towards the corners."""
    distance = np.hypot(XX - SIZE / 2, YY - SIZE / 2)[..., None] / 90
    return image * (1 - amount * np.clip(distance**2 - 0.15, 0, 1))


def posterize(image: np.ndarray) -> np.ndarray:
    """Keeps four levels per channel."""
    return np.round(image * 3) / 3


def invert(image: np.ndarray) -> np.ndarray:
    """Makes a negative."""
    return 1 - image


def fog(image: np.ndarray, amount: float = 0.6) -> np.ndarray:
    """Adds pale haze, thickest at the top."""
    haze = (amount * np.clip(1.25 - YY / SIZE * 0.8, 0, 1))[..., None]
    return image * (1 - haze) + haze * rgb(0.86, 0.88, 0.90)


def sunset(image: np.ndarray) -> np.ndarray:
    """Adds orange light from below and purple light from above."""
    share = (YY / SIZE)[..., None]
    light = rgb(0.62, 0.35, 0.62) * (1 - share) + rgb(1.15, 0.62, 0.22) * share
    return np.clip((image * 0.55 + luma(image) * 0.45) * light + 0.08 * light, 0, 1)


def night(image: np.ndarray) -> np.ndarray:
    """Adds dark blue light and a moon."""
    dark = image * rgb(0.25, 0.28, 0.50)
    paint(dark, disc(22, 20, 11), rgb(0.95, 0.95, 0.80))
    return dark


def blur(image: np.ndarray, radius: int = 4) -> np.ndarray:
    """Applies two box filters of `radius` pixels along each axis."""
    width = 2 * radius + 1
    for _ in range(2):
        for axis in (0, 1):
            padding = [(radius + 1, radius) if a == axis else (0, 0) for a in range(3)]
            sums = np.pad(image, padding, mode="edge").cumsum(axis, dtype=np.float64)
            ends = np.take(sums, range(width, width + image.shape[axis]), axis)
            starts = np.take(sums, range(image.shape[axis]), axis)
            image = ((ends - starts) / width).astype(np.float32)
    return image


def pixelate(image: np.ndarray, block: int = 8) -> np.ndarray:
    """Averages over blocks of `block` x `block` pixels."""
    count = image.shape[0] // block
    means = image.reshape(count, block, count, block, 3).mean((1, 3))
    return means.repeat(block, 0).repeat(block, 1)


def frame(image: np.ndarray, colour: np.ndarray, width: int = 8) -> np.ndarray:
    """Covers the outermost `width` pixels."""
    framed = image.copy()
    framed[:width] = framed[-width:] = colour
    framed[:, :width] = framed[:, -width:] = colour
    return framed


def edges(image: np.ndarray) -> np.ndarray:
    """Returns the edge strength [H, W, 1] in 0..1.

    Edges are about 4 px wide, so that an 8x autoencoder keeps them.
    """
    strength = np.zeros(image.shape[:2], np.float32)
    for axis in (0, 1):
        step = np.abs(np.diff(image, axis=axis)).sum(-1)
        strength += np.pad(step, [(1, 0) if a == axis else (0, 0) for a in range(2)])
    strength = np.clip(strength * 3, 0, 1)
    for axis in (0, 1):
        strength = np.maximum(np.maximum(strength, np.roll(strength, 1, axis)), np.roll(strength, -1, axis))
    return np.clip(blur(np.repeat(strength[..., None], 3, 2), 1)[..., :1] * 1.3, 0, 1)


def sketch(image: np.ndarray) -> np.ndarray:
    """Draws dark lines on white."""
    return np.repeat(1 - edges(image) * 0.85, 3, 2)


def charcoal(image: np.ndarray) -> np.ndarray:
    """Draws gray shading and black lines."""
    return np.repeat((luma(image) * 0.6 + 0.3) * (1 - 0.85 * edges(image)), 3, 2)


def snow(image: np.ndarray) -> np.ndarray:
    """Adds white flakes."""
    covered = image.copy()
    for x, y, r in FLAKES:
        x0 = int(max(x - 6, 0))
        y0 = int(max(y - 6, 0))
        window = np.s_[y0 : int(y) + 7, x0 : int(x) + 7]
        alpha = np.clip(r + 0.5 - np.hypot(XX[window] - x, YY[window] - y), 0, 1)[..., None]
        covered[window] = covered[window] * (1 - alpha) + alpha
    return covered


def rain(image: np.ndarray) -> np.ndarray:
    """Adds slanted pale streaks and gray-blue light."""
    wet = saturate(image, 0.6) * rgb(0.62, 0.68, 0.78)
    along = XX * -0.35 + YY * 0.94
    across = XX * 0.94 + YY * 0.35
    for x, y in DROPS:
        drop_along = x * -0.35 + y * 0.94
        drop_across = x * 0.94 + y * 0.35
        streak = np.maximum(np.abs(along - drop_along) - 7.5, np.abs(across - drop_across) - 1.4)
        paint(wet, streak, rgb(0.85, 0.90, 1.0), opacity=0.9)
    return wet
