"""Effects that training never showed, for tests, demonstrations and the benchmark.

Each effect gives pairs (before, after) at 128 px and the closest words that the pocket editor knows. The same seed always gives
the same pairs; take training and test pairs from different seeds. Photograph effects are cut from the shipped held-out crops:
even seeds use one half of the images, odd seeds the other, so that training and test images differ.
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


@dataclass(frozen=True)
class HeldOutEffect:
    """An unseen effect. `subject` is `scene` or `photo`; `words` is the closest wording the model knows."""

    name: str
    scope: str
    subject: str
    words: str
    sample: Callable[[np.random.Generator, np.ndarray | None], tuple[np.ndarray, np.ndarray]]

    def pairs(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `n` pairs, float32 [n, 128, 128, 3] in 0..1 each. Photographs: at most as many as half of the shipped crops."""
        rng = np.random.default_rng((seed, sum(map(ord, self.name))))
        befores: list[np.ndarray | None] = [None] * n
        if self.subject == "photo":
            half = held_out()[seed % 2 :: 2]
            if n > len(half):
                raise ValueError(
                    f"{self.name}: {n} pairs asked for, but only {len(half)} held-out photographs belong to seed {seed}."
                )
            befores = [half[index] for index in rng.permutation(len(half))[:n]]
        drawn = [self.sample(rng, before) for before in befores]
        before, after = (np.stack(side).astype(np.float32) for side in zip(*drawn, strict=True))
        return before, after


def _scene(
    rng: np.random.Generator,
    count: int | None = None,
    ground: bool = False,
    clear_of: np.ndarray | None = None,
) -> Scene:
    """Draw a scene; a third of the things have shapes never seen in training, and unseen shape and colour pairs occur."""
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


def _filter(
    change: Callable[[np.ndarray], np.ndarray],
) -> Callable[[np.random.Generator, np.ndarray | None], tuple[np.ndarray, np.ndarray]]:
    """Build an effect on the drawn image, or on a photograph where one is given."""

    def sample(rng: np.random.Generator, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        image = render(_scene(rng)) if before is None else before
        return image, np.clip(change(image), 0, 1)

    return sample


def _change(
    change: Callable[[Scene], Scene],
    count: int | None = None,
    ground: bool = False,
    clear_of: np.ndarray | None = None,
) -> Callable[[np.random.Generator, np.ndarray | None], tuple[np.ndarray, np.ndarray]]:
    """Build an effect on the scene before it is drawn."""

    def sample(rng: np.random.Generator, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        scene = _scene(rng, count, ground, clear_of)
        return render(scene), render(change(scene))

    return sample


def _circle(
    change: Callable[[Scene], Scene], clear_of: np.ndarray
) -> Callable[[np.random.Generator, np.ndarray | None], tuple[np.ndarray, np.ndarray]]:
    """Build an effect on the circle of a scene of two things, one of them a circle at index 0."""

    def sample(rng: np.random.Generator, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        while True:
            scene = _scene(rng, 2, clear_of=clear_of)
            if scene.things[1].shape == "circle":
                scene = replace(scene, things=scene.things[::-1])
            if scene.things[0].shape == "circle":
                return render(scene), render(change(scene))

    return sample


def swap_channels(image: np.ndarray) -> np.ndarray:
    """Exchange red and blue."""
    return image[..., ::-1].copy()


def ramp(image: np.ndarray) -> np.ndarray:
    """Dark blue on the left fading to bright yellow on the right: an effect that varies across the image."""
    share = (XX / SIZE)[..., None]
    return image * (rgb(0.35, 0.42, 0.75) * (1 - share) + rgb(1.15, 1.08, 0.70) * share) + 0.08 * share


def teal_and_orange(image: np.ndarray) -> np.ndarray:
    """Grade shadows teal and lights orange, as in cinema."""
    grey = f.luma(image)
    graded = image + (1 - grey) * rgb(-0.12, 0.05, 0.12) + grey * rgb(0.14, 0.02, -0.18)
    return f.contrast(np.clip(graded, 0, 1), 1.15)


def cross_process(image: np.ndarray) -> np.ndarray:
    """Bend red and green into S curves and flatten blue, as slide film in the wrong bath does."""
    bent = image**2 * (3 - 2 * image)
    return np.concatenate(
        [bent[..., :1] * 1.05, bent[..., 1:2] * 0.95 + 0.05, image[..., 2:] * 0.55 + 0.2], -1
    )


def old_film(image: np.ndarray) -> np.ndarray:
    """Lift the blacks to magenta, lower the whites to cream, pale colours."""
    return f.saturate(image, 0.55) * rgb(0.62, 0.60, 0.50) + rgb(0.30, 0.20, 0.26)


def split_light(image: np.ndarray) -> np.ndarray:
    """Light the upper half warm, the lower half cold."""
    share = np.clip((YY - 44) / 40, 0, 1)[..., None]
    return f.warm(image, 1.3) * (1 - share) + f.cold(image, 1.3) * share


def solarised(image: np.ndarray) -> np.ndarray:
    """Fold tones above the middle back down, as a print that saw light in the developer."""
    return np.where(image > 0.5, 1.4 * (1 - image), 1.4 * image) + 0.15


def plum_spotlight(image: np.ndarray) -> np.ndarray:
    """Light falls on a disc right of the centre; around it everything is dim plum."""
    share = np.clip(-disc(80, 72, 40) / 10 + 0.5, 0, 1)[..., None]
    return image * share + f.tint(f.darker(image, 0.35), PLUM * 1.6, 0.8) * (1 - share)


def half_painted(scene: Scene) -> np.ndarray:
    """Draw the scene with the lower half of every thing in olive."""
    image = render(scene)
    for thing in scene.things:
        paint(image, np.maximum(shape_distance(thing.shape, thing.x, thing.y, thing.r), thing.y - YY), OLIVE)
    return np.clip(image, 0, 1)


def _half_painted(rng: np.random.Generator, _: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    scene = _scene(rng, clear_of=OLIVE)
    return render(scene), half_painted(scene)


def with_shadows(scene: Scene) -> Scene:
    """Lay a dark plum oval under every thing, behind it, a little to the right."""
    shadows = tuple(
        Thing("oval", "", PLUM, thing.x + thing.r * 0.35, thing.y + thing.r * 0.95, thing.r * 0.95)
        for thing in scene.things
    )
    return replace(scene, things=(*shadows, *scene.things))


def _all_things(**changes: object) -> Callable[[Scene], Scene]:
    """Build a scene edit that changes every thing alike."""
    return lambda scene: replace(scene, things=tuple(replace(thing, **changes) for thing in scene.things))


_LIST = (
    HeldOutEffect("hue_75", "global", "scene", "shift the hue by 90", _filter(lambda p: f.hue(p, 75))),
    HeldOutEffect("duotone_plum_mint", "global", "scene", "make it a purple duotone", _filter(lambda p: f.duotone(p, PLUM, MINT))),
    HeldOutEffect("channel_swap", "global", "scene", "shift the colors", _filter(swap_channels)),
    HeldOutEffect("ramp", "global", "scene", "make it brighter", _filter(ramp)),
    HeldOutEffect("night_snow", "global", "scene", "make it night and add snow", _filter(lambda p: f.snow(f.night(p)))),
    HeldOutEffect("teal_orange", "global", "scene", "make it warmer", _filter(teal_and_orange)),
    HeldOutEffect("split_light", "global", "scene", "make it warmer", _filter(split_light)),
    HeldOutEffect("olive_background", "global", "scene", "make the background green",
                  _change(lambda s: replace(s, background="plain", top=OLIVE, bottom=OLIVE, clouds=()), clear_of=OLIVE)),
    HeldOutEffect("lavender_sky", "global", "scene", "make the sky purple", _change(lambda s: replace(s, top=LAVENDER), ground=True)),
    HeldOutEffect("film_photo", "global", "photo", "fade the colors", _filter(old_film)),
    HeldOutEffect("cross_process_photo", "global", "photo", "add contrast", _filter(cross_process)),
    HeldOutEffect("teal_orange_photo", "global", "photo", "make it warmer", _filter(teal_and_orange)),
    HeldOutEffect("teal_hat", "local", "scene", "add a cyan hat to it", _change(lambda s: s.with_thing(0, hat=TEAL), count=1, clear_of=TEAL)),
    HeldOutEffect("maroon_outline", "local", "scene", "add a brown border to it", _change(_all_things(border=MAROON), clear_of=MAROON)),
    HeldOutEffect("lavender_circle", "local", "scene", "make the circle purple", _circle(lambda s: s.with_thing(0, colour=LAVENDER), LAVENDER)),
    HeldOutEffect("olive_stripes", "local", "scene", "add green stripes to it", _change(lambda s: s.with_thing(0, stripes=OLIVE), count=1, clear_of=OLIVE)),
    HeldOutEffect("hat_and_smile", "local", "scene", "give it a red hat and make it smile",
                  _change(lambda s: s.with_thing(0, hat=rgb(0.85, 0.12, 0.12), smile=rgb(0.05, 0.05, 0.05)), count=1, clear_of=rgb(0.85, 0.12, 0.12))),
    HeldOutEffect("teal_all", "local", "scene", "make it cyan", _change(_all_things(colour=TEAL), clear_of=TEAL)),
    HeldOutEffect("solarised", "global", "scene", "invert the colors", _filter(solarised)),
    HeldOutEffect("plum_spotlight", "global", "scene", "add a vignette", _filter(plum_spotlight)),
    HeldOutEffect("half_olive", "local", "scene", "make it green", _half_painted),
    HeldOutEffect("plum_shadow", "local", "scene", "add a purple oval", _change(with_shadows, clear_of=PLUM)),
    HeldOutEffect("plum_dots", "local", "scene", "add purple dots to it", _change(lambda s: s.with_thing(0, dots=PLUM), count=1, clear_of=PLUM)),
    HeldOutEffect("mint_glasses", "local", "scene", "give it cyan glasses", _change(lambda s: s.with_thing(0, glasses=MINT), count=1, clear_of=MINT)),
    HeldOutEffect("maroon_corner_star", "local", "scene", "add a brown star on the left",
                  _change(lambda s: replace(s, things=(*s.things, Thing("star", "", MAROON, 20.0, 21.0, 17.0))), clear_of=MAROON)),
)  # fmt: skip

EFFECTS: dict[str, HeldOutEffect] = {effect.name: effect for effect in _LIST}
"""Every held-out effect by name."""

UNNAMED = frozenset({
    "channel_swap", "ramp", "teal_orange", "split_light", "film_photo", "cross_process_photo", "teal_orange_photo",
    "solarised", "plum_spotlight", "half_olive", "plum_shadow",
})  # fmt: skip
"""Effects that none of the editor's words name, not even with another colour or angle."""
