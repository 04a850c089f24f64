"""Scenes: a background and one to three things. Sampling, drawing and captions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .drawing import (
    COLOUR_NAMES,
    COLOURS,
    SHAPES,
    SIZE,
    XX,
    YY,
    box,
    disc,
    is_unseen_pair,
    near,
    paint,
    random_colour,
    shape_distance,
)

SKIES = ((0.55, 0.78, 0.95), (0.75, 0.88, 0.98), (0.95, 0.85, 0.70), (0.85, 0.85, 0.90), (0.60, 0.90, 0.85))
GROUNDS = {
    "grass": (0.35, 0.60, 0.25),
    "sand": (0.75, 0.65, 0.40),
    "stone": (0.50, 0.50, 0.52),
    "earth": (0.55, 0.40, 0.25),
    "ice": (0.88, 0.91, 0.95),
}
WHITE = np.ones(3, np.float32)
BLACK = np.zeros(3, np.float32)


@dataclass(frozen=True)
class Thing:
    """One object: shape, color, center and radius in px, and the colors of worn items, None if not worn."""

    shape: str
    colour_name: str
    colour: np.ndarray
    x: float
    y: float
    r: float
    border: np.ndarray | None = None
    stripes: np.ndarray | None = None
    dots: np.ndarray | None = None
    hat: np.ndarray | None = None
    glasses: np.ndarray | None = None
    eyes: bool = False
    smile: np.ndarray | None = None


@dataclass(frozen=True)
class Scene:
    """A background (`plain`, `gradient` or `ground`) and its things; `clouds` are (x, y, size)."""

    background: str
    top: np.ndarray
    bottom: np.ndarray
    horizon: float = float(SIZE)
    ground: str = ""
    clouds: tuple[tuple[float, float, float], ...] = ()
    sun: np.ndarray | None = None
    things: tuple[Thing, ...] = field(default=())

    def with_thing(self, index: int, **changes: object) -> Scene:
        """Returns a copy with thing `index` changed."""
        things = list(self.things)
        things[index] = replace(things[index], **changes)
        return replace(self, things=tuple(things))


def _background(rng: np.random.Generator) -> Scene:
    kind = str(rng.choice(["plain", "gradient", "ground"], p=[0.22, 0.23, 0.55]))
    if kind != "ground":
        return Scene(
            kind,
            near(rng, random_colour(rng) * 0.5 + 0.45, 0.03),
            near(rng, random_colour(rng) * 0.6 + 0.3, 0.03),
        )
    ground = str(rng.choice(list(GROUNDS)))
    top = near(rng, np.array(SKIES[rng.integers(len(SKIES))], np.float32), 0.05)
    clouds = ()
    if rng.random() < 0.35:
        clouds = tuple(
            (rng.uniform(12, 116), rng.uniform(12, 34), rng.uniform(7, 11)) for _ in range(rng.integers(1, 3))
        )
    return Scene(
        kind,
        top,
        near(rng, np.array(GROUNDS[ground], np.float32), 0.05),
        rng.uniform(70, 100),
        ground,
        clouds,
    )


def contrasts(colour: np.ndarray, scene: Scene, least: float = 0.35) -> bool:
    """Whether `colour` differs from both background colors by more than `least` (L1 distance)."""
    return min(np.abs(colour - scene.top).sum(), np.abs(colour - scene.bottom).sum()) > least


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Returns centers and radii that keep `count` things apart."""
    if count == 1:
        return [(rng.uniform(38, 90), rng.uniform(52, 86), rng.uniform(20, 32))]
    if count == 2:
        return [(x + rng.uniform(-6, 6), rng.uniform(48, 90), rng.uniform(17, 25)) for x in (33, 95)]
    return [(x + rng.uniform(-3, 3), rng.uniform(44, 96), rng.uniform(14, 18)) for x in (22, 64, 106)]


def sample_scene(
    rng: np.random.Generator,
    count: int | None = None,
    shapes: tuple[str, ...] = SHAPES,
    unseen_pairs: bool = False,
    dressed: float = 0.12,
) -> Scene:
    """Draws a random scene.

    Args:
        rng: source of all random choices.
        count: number of things; by default mostly one, sometimes two, rarely three.
        shapes: shapes to choose from; every thing has a different one.
        unseen_pairs: allows the combinations of shape and color that training never shows.
        dressed: probability that a thing wears eyes or a pattern.
    """
    scene = _background(rng)
    count = count or int(rng.choice([1, 2, 3], p=[0.58, 0.34, 0.08]))
    names = [str(name) for name in rng.permutation(shapes)]
    things = []
    for index, (x, y, r) in enumerate(_places(rng, count)):
        shape = names[index % len(names)]
        used = {thing.colour_name for thing in things}
        while True:
            colour_name = COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))]
            colour = near(rng, COLOURS[colour_name])
            if (
                contrasts(colour, scene)
                and colour_name not in used
                and (unseen_pairs or not is_unseen_pair(shape, colour_name))
            ):
                break
        thing = Thing(shape, colour_name, colour, float(x), float(y), float(r))
        if rng.random() < dressed:
            what = str(rng.choice(["eyes", "stripes", "dots"]))
            other = COLOURS[COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))]]
            thing = replace(thing, eyes=True) if what == "eyes" else replace(thing, **{what: other})
        things.append(thing)
    return replace(scene, things=tuple(things))


def _draw_background(scene: Scene) -> np.ndarray:
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = scene.top
    if scene.background == "gradient":
        share = (YY / SIZE)[..., None]
        image[:] = scene.top * (1 - share) + scene.bottom * share
    if scene.sun is not None:
        paint(image, disc(106, 20, 11), scene.sun)
    for x, y, size in scene.clouds:
        puffs = np.minimum(
            disc(x, y, size),
            np.minimum(disc(x - size, y + 2, size * 0.7), disc(x + size, y + 2, size * 0.75)),
        )
        paint(image, puffs, WHITE, opacity=0.85, softness=4.0)
    if scene.background == "ground":
        paint(image, scene.horizon - YY, scene.bottom)
    return image


def _draw_face(image: np.ndarray, thing: Thing) -> None:
    x = thing.x
    y = thing.y
    r = thing.r
    if thing.eyes:
        for side in (-1, 1):
            paint(image, disc(x + side * r * 0.36, y - r * 0.08, r * 0.29), WHITE)
            paint(image, disc(x + side * r * 0.36, y - r * 0.08, r * 0.16), BLACK)
    if thing.smile is not None:
        arc = np.maximum(np.abs(disc(x, y + r * 0.12, r * 0.5)) - max(2.0, r * 0.1), (y + r * 0.24) - YY)
        paint(image, arc, thing.smile)
    if thing.glasses is not None:
        for side in (-1, 1):
            rim = np.abs(disc(x + side * r * 0.45, y - r * 0.08, r * 0.36)) - max(2.2, r * 0.1)
            paint(image, rim, thing.glasses)
        paint(image, box(x - r * 0.14, y - r * 0.08 - 2, x + r * 0.14, y - r * 0.08 + 2), thing.glasses)


def _draw_thing(image: np.ndarray, thing: Thing) -> None:
    x = thing.x
    y = thing.y
    r = thing.r
    distance = shape_distance(thing.shape, x, y, r)
    if thing.border is not None:
        paint(image, distance - 5.0, thing.border)
    colour: np.ndarray = thing.colour
    if thing.stripes is not None:
        band = np.clip(np.abs((XX - x + 4) % 16 - 8) - 3.5, 0, 1)[..., None]
        colour = colour * (1 - band) + thing.stripes * band
    if thing.dots is not None:
        spot = np.clip(4.3 - np.hypot((XX - x + 7) % 14 - 7, (YY - y + 7) % 14 - 7), 0, 1)[..., None]
        colour = colour * (1 - spot) + thing.dots * spot
    paint(image, distance, colour)
    if thing.hat is not None:
        brim = y - r * 0.78
        paint(image, box(x - r * 0.85, brim - 5, x + r * 0.85, brim + 1), thing.hat)
        paint(image, box(x - r * 0.5, brim - r * 0.75 - 4, x + r * 0.5, brim - 3), thing.hat)
    _draw_face(image, thing)


def render(scene: Scene) -> np.ndarray:
    """Draws a scene: float32 [128, 128, 3] in 0..1."""
    image = _draw_background(scene)
    for thing in scene.things:
        _draw_thing(image, thing)
    return np.clip(image, 0, 1)


def nearest_name(colour: np.ndarray) -> str:
    """Returns the name of the known color closest to `colour`."""
    return min(COLOURS, key=lambda name: float(((COLOURS[name] - colour) ** 2).sum()))


def describe(thing: Thing) -> str:
    """Describes one thing: "a red circle with a blue hat and eyes"."""
    parts = []
    for name, article in (("hat", "a "), ("border", "a "), ("glasses", ""), ("stripes", ""), ("dots", "")):
        colour = getattr(thing, name)
        if colour is not None:
            parts.append(f"{article}{nearest_name(colour)} {name}")
    if thing.eyes:
        parts.append("eyes")
    if thing.smile is not None:
        parts.append("a smile")
    size = ""
    if thing.r < 15:
        size = "small "
    elif thing.r > 31:
        size = "big "
    wears = f" with {' and '.join(parts)}" if parts else ""
    return f"a {size}{nearest_name(thing.colour)} {thing.shape}{wears}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Captions a scene in one of several wordings. Half of them leave out the background."""
    words = " and ".join(describe(thing) for thing in scene.things) or "an empty background"
    if rng.random() < 0.5:
        return words
    if scene.background == "ground":
        ground = f"on {scene.ground}" if scene.ground else ""
        wordings = [f"{words} {ground}", f"{words} {ground} under a {nearest_name(scene.top)} sky"]
        return str(rng.choice(wordings))
    kind = "gradient" if scene.background == "gradient" else "background"
    return f"{words} on a {nearest_name(scene.top)} {kind}"
