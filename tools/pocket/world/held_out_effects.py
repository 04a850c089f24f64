"""Effects that training never shows, for tests, demonstrations and the benchmark.

Learning settings are chosen on the effects of ``DEVELOPMENT`` and measured on those of ``TEST``.

Each effect draws pairs (before, after) at 128 px and names the closest words that the pocket editor knows. A
seed always gives the same pairs. Use different seeds for training and test pairs. Photograph effects use the
held-out crops: even seeds one half of the crops, odd seeds the other half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from . import filters as f
from .drawing import SHAPES, SIZE, UNSEEN_SHAPES, XX, YY, disc, paint, shape_distance
from .filters import rgb
from .photos import held_out
from .scenes import Scene, Thing, contrasts, render, sample_scene

TEAL = rgb(0.05, 0.52, 0.50)
OLIVE = rgb(0.42, 0.45, 0.12)
MAROON = rgb(0.45, 0.05, 0.16)
LAVENDER = rgb(0.70, 0.60, 0.92)
PLUM = rgb(0.28, 0.05, 0.25)
MINT = rgb(0.72, 1.0, 0.82)
RED = rgb(0.85, 0.12, 0.12)

# Draws one pair (before, after); a photograph effect gets its photograph.
Sample = Callable[[np.random.Generator, np.ndarray | None], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class HeldOutEffect:
    """An effect that training never shows.

    `scope` is `global` or `local`, `subject` is `scene` or `photo`, `words` is the closest wording the model
    knows.
    """

    name: str
    scope: str
    subject: str
    words: str
    sample: Sample

    def pairs(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns `n` images before and after, float32 [n, 128, 128, 3] in 0..1.

        Raises ValueError if a photograph effect has fewer than `n` crops for this seed.
        """
        rng = np.random.default_rng((seed, sum(map(ord, self.name))))
        befores: list[np.ndarray | None] = [None] * n
        if self.subject == "photo":
            half = held_out()[seed % 2 :: 2]
            if n > len(half):
                raise ValueError(
                    f"{self.name}: {n} pairs asked for, but only {len(half)} held-out photographs "
                    f"belong to seed {seed}."
                )
            befores = [half[index] for index in rng.permutation(len(half))[:n]]
        pairs = [self.sample(rng, before) for before in befores]
        before = np.stack([pair[0] for pair in pairs]).astype(np.float32)
        after = np.stack([pair[1] for pair in pairs]).astype(np.float32)
        return before, after


def _scene(
    rng: np.random.Generator,
    count: int | None = None,
    ground: bool = False,
    clear_of: np.ndarray | None = None,
) -> Scene:
    """Draws a scene with unseen shapes and unseen combinations of shape and color among its things."""
    while True:
        shapes = UNSEEN_SHAPES + SHAPES if rng.random() < 0.5 else SHAPES
        scene = sample_scene(rng, count, shapes=shapes, unseen_pairs=True, dressed=0.0)
        if ground and scene.background != "ground":
            continue
        if clear_of is None or (
            contrasts(clear_of, scene)
            and all(np.abs(thing.colour - clear_of).sum() > 0.35 for thing in scene.things)
        ):
            return scene


def _filter(change: Callable[[np.ndarray], np.ndarray]) -> Sample:
    """Builds an effect on the drawn image or the given photograph."""

    def sample(rng: np.random.Generator, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        image = render(_scene(rng)) if before is None else before
        return image, np.clip(change(image), 0, 1)

    return sample


def _change(
    change: Callable[[Scene], Scene],
    count: int | None = None,
    ground: bool = False,
    clear_of: np.ndarray | None = None,
) -> Sample:
    """Builds an effect on the scene before it is drawn."""

    def sample(rng: np.random.Generator, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        scene = _scene(rng, count, ground, clear_of)
        return render(scene), render(change(scene))

    return sample


def _circle(change: Callable[[Scene], Scene], clear_of: np.ndarray) -> Sample:
    """Builds an effect on a scene of two things, the first a circle."""

    def sample(rng: np.random.Generator, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        while True:
            scene = _scene(rng, 2, clear_of=clear_of)
            if scene.things[1].shape == "circle":
                scene = replace(scene, things=scene.things[::-1])
            if scene.things[0].shape == "circle":
                return render(scene), render(change(scene))

    return sample


def swap_channels(image: np.ndarray) -> np.ndarray:
    """Exchanges red and blue."""
    return image[..., ::-1].copy()


def ramp(image: np.ndarray) -> np.ndarray:
    """Fades from dark blue on the left to bright yellow on the right."""
    share = (XX / SIZE)[..., None]
    return image * (rgb(0.35, 0.42, 0.75) * (1 - share) + rgb(1.15, 1.08, 0.70) * share) + 0.08 * share


def teal_and_orange(image: np.ndarray) -> np.ndarray:
    """Grades shadows teal and lights orange, as in cinema."""
    grey = f.luma(image)
    graded = image + (1 - grey) * rgb(-0.12, 0.05, 0.12) + grey * rgb(0.14, 0.02, -0.18)
    return f.contrast(np.clip(graded, 0, 1), 1.15)


def cross_process(image: np.ndarray) -> np.ndarray:
    """Applies S curves to red and green and flattens blue, like slide film in the wrong chemicals."""
    bent = image**2 * (3 - 2 * image)
    return np.concatenate(
        [bent[..., :1] * 1.05, bent[..., 1:2] * 0.95 + 0.05, image[..., 2:] * 0.55 + 0.2], -1
    )


def old_film(image: np.ndarray) -> np.ndarray:
    """Raises black to magenta, lowers white to cream, makes colors pale."""
    return f.saturate(image, 0.55) * rgb(0.62, 0.60, 0.50) + rgb(0.30, 0.20, 0.26)


def split_light(image: np.ndarray) -> np.ndarray:
    """Makes the upper half warm and the lower half cold."""
    share = np.clip((YY - 44) / 40, 0, 1)[..., None]
    return f.warm(image, 1.3) * (1 - share) + f.cold(image, 1.3) * share


def solarised(image: np.ndarray) -> np.ndarray:
    """Inverts tones above the middle, like a photographic print exposed to light in the developer."""
    return np.where(image > 0.5, 1.4 * (1 - image), 1.4 * image) + 0.15


def plum_spotlight(image: np.ndarray) -> np.ndarray:
    """Lights a disc right of the center and makes everything around it dark plum."""
    share = np.clip(-disc(80, 72, 40) / 10 + 0.5, 0, 1)[..., None]
    return image * share + f.tint(f.darker(image, 0.35), PLUM * 1.6, 0.8) * (1 - share)


def corner_glow(image: np.ndarray) -> np.ndarray:
    """Lights the lower left corner golden and fades to dark violet towards the upper right one."""
    share = np.clip((XX - YY + SIZE) / (2 * SIZE), 0, 1)[..., None]
    light = rgb(1.25, 1.05, 0.62) * (1 - share) + rgb(0.38, 0.28, 0.62) * share
    return image * light + rgb(0.10, 0.07, 0.0) * (1 - share)


def bleached(image: np.ndarray) -> np.ndarray:
    """Takes away most color and adds contrast and a trace of green, like film that kept its silver."""
    return f.contrast(f.saturate(image, 0.4), 1.5) * rgb(0.94, 1.02, 0.90)


def with_cores(scene: Scene) -> np.ndarray:
    """Draws the scene with a teal disc in the middle of every thing."""
    image = render(scene)
    for thing in scene.things:
        paint(image, disc(thing.x, thing.y, thing.r * 0.45), TEAL)
    return np.clip(image, 0, 1)


def _with_cores(rng: np.random.Generator, _: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    scene = _scene(rng, clear_of=TEAL)
    return render(scene), with_cores(scene)


def half_painted(scene: Scene) -> np.ndarray:
    """Draws the scene with the lower half of every thing in olive."""
    image = render(scene)
    for thing in scene.things:
        paint(image, np.maximum(shape_distance(thing.shape, thing.x, thing.y, thing.r), thing.y - YY), OLIVE)
    return np.clip(image, 0, 1)


def _half_painted(rng: np.random.Generator, _: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    scene = _scene(rng, clear_of=OLIVE)
    return render(scene), half_painted(scene)


def with_shadows(scene: Scene) -> Scene:
    """Adds a dark plum oval behind every thing, below it and a little to the right."""
    shadows = tuple(
        Thing("oval", "", PLUM, thing.x + thing.r * 0.35, thing.y + thing.r * 0.95, thing.r * 0.95)
        for thing in scene.things
    )
    return replace(scene, things=(*shadows, *scene.things))


def _all_things(**changes: object) -> Callable[[Scene], Scene]:
    """Builds a scene edit that changes every thing in the same way."""
    return lambda scene: replace(scene, things=tuple(replace(thing, **changes) for thing in scene.things))


def _first_thing(**changes: object) -> Callable[[Scene], Scene]:
    """Builds a scene edit that changes the first thing."""
    return lambda scene: scene.with_thing(0, **changes)


def _global(name: str, words: str, sample: Sample, subject: str = "scene") -> HeldOutEffect:
    return HeldOutEffect(name, "global", subject, words, sample)


def _local(name: str, words: str, sample: Sample) -> HeldOutEffect:
    return HeldOutEffect(name, "local", "scene", words, sample)


_FLAT_OLIVE = {"background": "plain", "top": OLIVE, "bottom": OLIVE, "clouds": ()}
_CORNER_STAR = Thing("star", "", MAROON, 20.0, 21.0, 17.0)

# Words and order belong to the benchmark: its figures and seeds depend on them.
_LIST = (
    _global("hue_75", "shift the hue by 90", _filter(lambda image: f.hue(image, 75))),
    _global(
        "duotone_plum_mint", "make it a purple duotone", _filter(lambda image: f.duotone(image, PLUM, MINT))
    ),
    _global("channel_swap", "shift the colors", _filter(swap_channels)),
    _global("ramp", "make it brighter", _filter(ramp)),
    _global("night_snow", "make it night and add snow", _filter(lambda image: f.snow(f.night(image)))),
    _global("teal_orange", "make it warmer", _filter(teal_and_orange)),
    _global("split_light", "make it warmer", _filter(split_light)),
    _global(
        "olive_background",
        "make the background green",
        _change(lambda scene: replace(scene, **_FLAT_OLIVE), clear_of=OLIVE),
    ),
    _global(
        "lavender_sky",
        "make the sky purple",
        _change(lambda scene: replace(scene, top=LAVENDER), ground=True),
    ),
    _global("film_photo", "fade the colors", _filter(old_film), "photo"),
    _global("cross_process_photo", "add contrast", _filter(cross_process), "photo"),
    _global("teal_orange_photo", "make it warmer", _filter(teal_and_orange), "photo"),
    _local("teal_hat", "add a cyan hat to it", _change(_first_thing(hat=TEAL), count=1, clear_of=TEAL)),
    _local(
        "maroon_outline", "add a brown border to it", _change(_all_things(border=MAROON), clear_of=MAROON)
    ),
    _local("lavender_circle", "make the circle purple", _circle(_first_thing(colour=LAVENDER), LAVENDER)),
    _local(
        "olive_stripes",
        "add green stripes to it",
        _change(_first_thing(stripes=OLIVE), count=1, clear_of=OLIVE),
    ),
    _local(
        "hat_and_smile",
        "give it a red hat and make it smile",
        _change(_first_thing(hat=RED, smile=rgb(0.05, 0.05, 0.05)), count=1, clear_of=RED),
    ),
    _local("teal_all", "make it cyan", _change(_all_things(colour=TEAL), clear_of=TEAL)),
    _global("solarised", "invert the colors", _filter(solarised)),
    _global("plum_spotlight", "add a vignette", _filter(plum_spotlight)),
    _local("half_olive", "make it green", _half_painted),
    _local("plum_shadow", "add a purple oval", _change(with_shadows, clear_of=PLUM)),
    _local("plum_dots", "add purple dots to it", _change(_first_thing(dots=PLUM), count=1, clear_of=PLUM)),
    _local(
        "mint_glasses", "give it cyan glasses", _change(_first_thing(glasses=MINT), count=1, clear_of=MINT)
    ),
    _local(
        "maroon_corner_star",
        "add a brown star on the left",
        _change(lambda scene: replace(scene, things=(*scene.things, _CORNER_STAR)), clear_of=MAROON),
    ),
    _global(
        "duotone_maroon_lavender",
        "make it a pink duotone",
        _filter(lambda image: f.duotone(image, MAROON, LAVENDER)),
    ),
    _global("corner_glow", "make it sunset", _filter(corner_glow)),
    _global("bleach_photo", "increase the contrast", _filter(bleached), "photo"),
    _local(
        "lavender_hat",
        "add a purple hat to it",
        _change(_first_thing(hat=LAVENDER), count=1, clear_of=LAVENDER),
    ),
    _local("mint_outline", "add a cyan border to it", _change(_all_things(border=MINT), clear_of=MINT)),
    _local("teal_core", "add cyan dots to it", _with_cores),
)

EFFECTS: dict[str, HeldOutEffect] = {effect.name: effect for effect in _LIST}

# Three global and three local effects, three of them unnamed.
DEVELOPMENT = ("hue_75", "split_light", "teal_orange_photo", "teal_hat", "maroon_outline", "half_olive")
# 14 global and 11 local effects, eleven of them unnamed: the shape of TOP-Bench.
TEST = tuple(name for name in EFFECTS if name not in DEVELOPMENT)

# Effects that no words of the editor name, not even with another color or angle.
UNNAMED = frozenset({
    "channel_swap", "ramp", "teal_orange", "split_light", "film_photo", "cross_process_photo",
    "teal_orange_photo", "solarised", "plum_spotlight", "half_olive", "plum_shadow", "corner_glow",
    "bleach_photo", "teal_core",
})  # fmt: skip
