"""Signed-distance drawing on 128 px float canvases: colors, shapes and painting.

Images are float32 arrays [128, 128, 3] in 0..1; a distance field is [128, 128] in pixels, negative inside.
"""

from __future__ import annotations

import colorsys

import numpy as np

SIZE = 128
YY, XX = (np.mgrid[0:SIZE, 0:SIZE] + 0.5).astype(np.float32)

COLOURS: dict[str, np.ndarray] = {
    name: np.array(rgb, np.float32)
    for name, rgb in {
        "red": (0.85, 0.12, 0.12),
        "orange": (0.95, 0.55, 0.10),
        "yellow": (0.95, 0.88, 0.15),
        "green": (0.15, 0.65, 0.20),
        "cyan": (0.10, 0.80, 0.85),
        "blue": (0.12, 0.25, 0.85),
        "purple": (0.50, 0.15, 0.70),
        "pink": (0.97, 0.50, 0.72),
        "white": (0.96, 0.96, 0.96),
        "black": (0.07, 0.07, 0.07),
        "brown": (0.45, 0.26, 0.10),
        "gray": (0.50, 0.50, 0.50),
    }.items()
}
COLOUR_NAMES = tuple(COLOURS)

SHAPES = ("circle", "square", "triangle", "diamond", "star", "hexagon", "cross", "ring", "flower", "oval")
# Shapes that only the held-out effects draw; no training image or caption contains them.
UNSEEN_SHAPES = ("heart", "crescent", "arrow", "house")


def is_unseen_pair(shape: str, colour: str) -> bool:
    """Whether training never shows this shape in this color (about one combination in thirteen)."""
    return shape in SHAPES and (SHAPES.index(shape) * 5 + COLOUR_NAMES.index(colour) * 3) % 13 == 0


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """Returns an arbitrary, mostly unnamed color, float32 [3]."""
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.4, 1), rng.uniform(0.35, 1)), np.float32)


def near(rng: np.random.Generator, colour: np.ndarray, spread: float = 0.04) -> np.ndarray:
    """Returns `colour` plus normal noise with standard deviation `spread`, clipped to 0..1."""
    return np.clip(colour + rng.normal(0, spread, 3), 0, 1).astype(np.float32)


def paint(
    image: np.ndarray, distance: np.ndarray, colour: np.ndarray, opacity: float = 1.0, softness: float = 1.0
) -> None:
    """Paints `colour` over `image` in place where `distance` is negative. Edges are `softness` px wide."""
    alpha = (np.clip(0.5 - distance / softness, 0, 1) * opacity)[..., None]
    image *= 1 - alpha
    image += alpha * colour


def disc(x: float, y: float, r: float) -> np.ndarray:
    """Returns the distance to a disc."""
    return np.hypot(XX - x, YY - y) - r


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Returns the distance (maximum norm) to an axis-aligned box."""
    horizontal = np.abs(XX - (x0 + x1) / 2) - (x1 - x0) / 2
    vertical = np.abs(YY - (y0 + y1) / 2) - (y1 - y0) / 2
    return np.maximum(horizontal, vertical)


def _star(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    turn = 2 * np.pi / 5
    angle = np.arctan2(x, -y)
    angle = np.abs((angle + turn / 2) % turn - turn / 2)
    length = np.hypot(x, y)
    tip_x = r * 1.15
    tip_y = 0.0
    edge_x = r * 0.52 * np.cos(turn / 2) - tip_x
    edge_y = r * 0.52 * np.sin(turn / 2) - tip_y
    cross = (length * np.cos(angle) - tip_x) * edge_y - (length * np.sin(angle) - tip_y) * edge_x
    return cross / np.hypot(edge_x, edge_y)


def _heart(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    lobes = np.hypot(np.abs(x) - r * 0.48, y + r * 0.3) - r * 0.52
    point = (np.abs(x) * 0.78 + y * 0.62) - r * 0.57
    return np.minimum(lobes, np.maximum(point, -(y + r * 0.3)))


def _arrow(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    shaft = np.maximum(np.abs(x + r * 0.35) - r * 0.65, np.abs(y) - r * 0.28)
    head = np.maximum(-(x - r * 0.1), x * 0.65 + np.abs(y) * 0.76 - r * 0.72)
    return np.minimum(shaft, head)


def _house(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    walls = np.maximum(np.abs(x) - r * 0.7, np.abs(y - r * 0.4) - r * 0.5)
    roof = np.maximum(np.abs(x) * 0.66 - (y + r) * 0.75, y + r * 0.08)
    return np.minimum(walls, roof)


def shape_distance(shape: str, x: float, y: float, r: float) -> np.ndarray:
    """Returns the distance to `shape` with radius `r` px and center (x, y).

    Raises KeyError for an unknown shape.
    """
    dx, dy = XX - x, YY - y
    ax, ay = np.abs(dx), np.abs(dy)
    if shape == "circle":
        return np.hypot(dx, dy) - r
    if shape == "oval":
        return (np.hypot(dx / 1.15, dy / 0.72) - r) * 0.8
    if shape == "ring":
        return np.abs(np.hypot(dx, dy) - r * 0.73) - r * 0.27
    if shape == "square":
        return np.maximum(ax, ay) - r * 0.87
    if shape == "diamond":
        return (ax + ay - r * 1.15) * 0.7071
    if shape == "triangle":
        return np.maximum(dy - r * 0.75, ax * 0.866 - (dy + r) * 0.5)
    if shape == "hexagon":
        return np.maximum(ax * 0.866 + ay * 0.5, ay) - r * 0.9
    if shape == "cross":
        return np.minimum(np.maximum(ax - r, ay - r * 0.38), np.maximum(ax - r * 0.38, ay - r))
    if shape == "star":
        return _star(dx, dy, r)
    if shape == "flower":
        return np.hypot(dx, dy) - r * (0.82 + 0.24 * np.cos(6 * np.arctan2(dy, dx)))
    if shape == "heart":
        return _heart(dx, dy, r)
    if shape == "crescent":
        return np.maximum(np.hypot(dx, dy) - r, -(np.hypot(dx - r * 0.55, dy + r * 0.1) - r * 0.8))
    if shape == "arrow":
        return _arrow(dx, dy, r)
    if shape == "house":
        return _house(dx, dy, r)
    raise KeyError(f"unknown shape {shape!r}; known: {', '.join(SHAPES + UNSEEN_SHAPES)}")
