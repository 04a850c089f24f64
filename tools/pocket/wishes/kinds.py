"""Kinds of wishes.

For each kind a maker draws a scene in which the wish makes sense, and the edit that fulfills it there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..world import filters as f
from ..world.drawing import COLOUR_NAMES, COLOURS, near
from ..world.effects import SUN, smile_colour
from ..world.scene_edit import Filter
from ..world.scenes import GROUNDS, SKIES, Scene, contrasts, sample_scene
from .explicit_edits import (
    ExplicitEdit,
    add_sun,
    add_twin,
    change_thing,
    paint_background,
    put_frame,
    remove,
    tint,
    tone,
)

CHROMATIC = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")


@dataclass(frozen=True)
class Draft:
    """A scene, the edit that fulfills the wish in it, and the reason.

    `light` is a filter for the image before and after the edit, such as a wrong exposure.
    """

    scene: Scene
    edit: ExplicitEdit
    reason: str
    light: Filter | None = None


Maker = Callable[[np.random.Generator], Draft]


def _scene(rng: np.random.Generator, count: int, place: str = "") -> Scene:
    """Draws a scene of undecorated things.

    `place` is "ground", "inside" (plain or gradient background) or "" for any.
    """
    while True:
        scene = sample_scene(rng, count, unseen_pairs=True, dressed=0.0)
        if not place or (scene.background == "ground") == (place == "ground"):
            return scene


def _dyed(rng: np.random.Generator, scene: Scene, names: list[str]) -> Scene:
    """Returns the scene with its things in these colors."""
    things = tuple(
        replace(thing, colour_name=name, colour=near(rng, COLOURS[name]))
        for thing, name in zip(scene.things, names, strict=True)
    )
    return replace(scene, things=things)


def _visible(
    rng: np.random.Generator, scene: Scene, count: int, names: tuple[str, ...] = COLOUR_NAMES
) -> list[str] | None:
    """Returns `count` different colors of `names` that stand out from the background; None if too few do."""
    fit = [str(name) for name in rng.permutation(names) if contrasts(COLOURS[str(name)], scene, 0.5)]
    chosen: list[str] = []
    for name in fit:  # the chosen colors must also differ clearly from each other
        if all(np.abs(COLOURS[name] - COLOURS[other]).sum() > 0.6 for other in chosen):
            chosen.append(name)
    return chosen[:count] if len(chosen) >= count else None


def _coloured(
    rng: np.random.Generator, count: int, kinds: int, place: str = "", names: tuple[str, ...] = COLOUR_NAMES
) -> tuple[Scene, list[str]]:
    """Draws a scene of `count` things, and `kinds` colors for them."""
    while True:
        scene = _scene(rng, count, place)
        colours = _visible(rng, scene, kinds, names)
        if colours is not None:
            return scene, colours


def _one(rng: np.random.Generator, names: tuple[str, ...], place: str = "") -> tuple[Scene, str]:
    """Draws a scene with one thing in one of these colors. Returns also the color."""
    scene, (name,) = _coloured(rng, 1, 1, place, names)
    return _dyed(rng, scene, [name]), name


def _two(rng: np.random.Generator, kinds: int = 2) -> tuple[Scene, list[str], int]:
    """Draws a scene of two things.

    Returns also `kinds` colors, the things' own first, and the index of one thing.
    """
    scene, colours = _coloured(rng, 2, kinds)
    return _dyed(rng, scene, colours[:2]), colours, int(rng.integers(2))


def _hours_passed(rng: np.random.Generator) -> Draft:
    form = rng.integers(3)
    if form == 0:
        scene = replace(_scene(rng, int(rng.integers(1, 3)), "ground"), sun=SUN)
        return Draft(scene, tone(scene, "sunset"), "the sun is up and will go down")
    scene = _scene(rng, int(rng.integers(1, 3)), "ground" if form == 1 else "inside")
    if form == 1:
        return Draft(scene, tone(scene, "night"), "after the day comes the night")
    return Draft(scene, tone(scene, "darker"), "there is no sky, the light goes down")


def _odd_one(rng: np.random.Generator) -> Draft:
    scene, (most, other) = _coloured(rng, 3, 2)
    index = int(rng.integers(3))
    if rng.random() < 0.75:
        scene = _dyed(rng, scene, [other if i == index else most for i in range(3)])
        return Draft(scene, change_thing(scene, index, "recolor", most), f"the others are {most}")
    scene = _dyed(rng, scene, [most] * 3)
    shape = scene.things[(index + 1) % 3].shape
    scene = scene.with_thing((index + 2) % 3, shape=shape)
    return Draft(scene, change_thing(scene, index, "reshape", shape), f"each of the others is a {shape}")


def _sized(
    rng: np.random.Generator, scene: Scene, index: int, small: tuple[float, float], big: tuple[float, float]
) -> Scene:
    """Returns the scene with a small radius for thing `index` and a big one for the others."""
    things = tuple(
        replace(thing, r=float(rng.uniform(*(small if i == index else big))))
        for i, thing in enumerate(scene.things)
    )
    return replace(scene, things=things)


def _matching_pair(rng: np.random.Generator) -> Draft:
    scene, colours, index = _two(rng)
    scene = _sized(rng, scene, index, (13, 16), (23, 27))
    big = 1 - index
    if rng.random() < 0.7:
        edit = change_thing(scene, index, "recolor", colours[big])
        return Draft(scene, edit, f"the big one is {colours[big]}")
    scene = _dyed(rng, scene, [colours[big]] * 2)
    shape = scene.things[big].shape
    return Draft(scene, change_thing(scene, index, "reshape", shape), f"the big one is a {shape}")


def _freezing(rng: np.random.Generator) -> Draft:
    outside = rng.random() < 0.5
    scene = _scene(rng, int(rng.integers(1, 3)), "ground" if outside else "inside")
    if outside:
        return Draft(scene, tone(scene, "snow"), "it is outside and snow can fall")
    return Draft(scene, tone(scene, "cold"), "it is no place where snow can fall")


# What a camera does wrong -> the filter that spoils the image, the tone that corrects it, and the reason.
_SPOILT: dict[str, tuple[Callable[[np.random.Generator], Filter], str, str]] = {
    "dark": (
        lambda rng: partial(f.darker, amount=float(rng.uniform(0.45, 0.6))),
        "brighter",
        "it is too dark",
    ),
    "bright": (
        lambda rng: partial(f.brighter, amount=float(rng.uniform(0.4, 0.55))),
        "darker",
        "it is too bright",
    ),
    "warm": (lambda rng: partial(f.warm, amount=float(rng.uniform(1.1, 1.5))), "cold", "it is too warm"),
    "cold": (lambda rng: partial(f.cold, amount=float(rng.uniform(1.1, 1.5))), "warm", "it is too cold"),
    "flat": (
        lambda rng: partial(f.contrast, factor=float(rng.uniform(0.35, 0.45))),
        "contrast",
        "it is too flat",
    ),
    "pale": (
        lambda rng: partial(f.saturate, factor=float(rng.uniform(0.2, 0.35))),
        "vivid",
        "the colors are too weak",
    ),
}


def _spoilt(*ways: str) -> Maker:
    def make(rng: np.random.Generator) -> Draft:
        spoil, mend, reason = _SPOILT[ways[rng.integers(len(ways))]]
        # Known colors reveal a color cast: white clouds in a blue sky, and things in full color.
        scene = _coloured(rng, int(rng.integers(1, 4)), 3, "ground")[0]
        clouds = tuple(
            (float(x + rng.uniform(-9, 9)), float(rng.uniform(14, 30)), float(rng.uniform(8, 11)))
            for x in (26, 88)
        )
        scene = replace(
            scene, top=near(rng, np.array(SKIES[rng.integers(2)], np.float32), 0.03), clouds=clouds
        )
        return Draft(scene, tone(scene, mend), reason, spoil(rng))

    return make


_WEATHER = {
    "ice": ("snow", "snow goes with ice"),
    "grass": ("rain", "grass wants rain"),
    "sand": ("sun", "sand lies in the sun"),
    "stone": ("fog", "fog lies over the stone"),
}


def _weather_fits(rng: np.random.Generator) -> Draft:
    ground = str(rng.choice(list(_WEATHER)))
    scene = replace(
        _scene(rng, int(rng.integers(1, 3)), "ground"),
        ground=ground,
        bottom=near(rng, np.array(GROUNDS[ground], np.float32)),
    )
    kind, reason = _WEATHER[ground]
    return Draft(scene, add_sun(scene) if kind == "sun" else tone(scene, kind), reason)


def _stand_out(rng: np.random.Generator) -> Draft:
    if rng.random() < 0.5:
        scene, name = _one(rng, ("red", "blue", "purple", "black", "brown"), "inside")
        return Draft(scene, paint_background(scene, "white"), f"{name} is dark")
    scene, name = _one(rng, ("orange", "yellow", "cyan", "pink", "white"), "inside")
    return Draft(scene, paint_background(scene, "black"), f"{name} is light")


def _hide(rng: np.random.Generator) -> Draft:
    while True:
        background = str(rng.choice(CHROMATIC))
        colour = near(rng, COLOURS[background])
        scene = replace(_scene(rng, 1, "inside"), background="plain", top=colour, bottom=colour)
        own = _visible(rng, scene, 1)
        if own is not None:
            scene = _dyed(rng, scene, own)
            return Draft(
                scene, change_thing(scene, 0, "recolor", background), f"what is behind it is {background}"
            )


def _frame(rng: np.random.Generator) -> Draft:
    scene, name = _one(rng, COLOUR_NAMES)
    return Draft(scene, put_frame(scene, name), f"it is {name}")


def _take_on(rng: np.random.Generator) -> Draft:
    scene, name = _one(rng, CHROMATIC)
    return Draft(scene, tint(scene, name), f"it is {name}")


def _traffic_light(rng: np.random.Generator) -> Draft:
    scene, name = _one(rng, ("red", "yellow", "green"))
    following = {"red": "green", "green": "yellow", "yellow": "red"}[name]
    return Draft(scene, change_thing(scene, 0, "recolor", following), f"after {name} comes {following}")


def _other_temper(rng: np.random.Generator) -> Draft:
    scene, name = _one(rng, ("red", "orange", "yellow", "blue", "cyan"))
    if name in ("red", "orange", "yellow"):
        return Draft(scene, change_thing(scene, 0, "recolor", "blue"), f"{name} is a hot color")
    return Draft(scene, change_thing(scene, 0, "recolor", "red"), f"{name} is a cold color")


def _forgot_hat(rng: np.random.Generator) -> Draft:
    scene, colours, index = _two(rng, 3)
    shape = scene.things[1 - index].shape
    scene = scene.with_thing(1 - index, hat=COLOURS[colours[2]])
    return Draft(scene, change_thing(scene, index, "hat", colours[2]), f"the {shape} has a {colours[2]} hat")


def _cannot_see(rng: np.random.Generator) -> Draft:
    scene, _, index = _two(rng)
    shape = scene.things[index].shape
    scene = scene.with_thing(1 - index, eyes=True)
    return Draft(scene, change_thing(scene, index, "eyes"), f"the {shape} has no eyes")


def _dressed_alike(rng: np.random.Generator) -> Draft:
    scene, colours, index = _two(rng, 3)
    pattern = str(rng.choice(["stripes", "dots"]))
    shape = scene.things[1 - index].shape
    scene = scene.with_thing(1 - index, **{pattern: COLOURS[colours[2]]})
    reason = f"the {shape} has {colours[2]} {pattern}"
    return Draft(scene, change_thing(scene, index, pattern, colours[2]), reason)


def _equal_sizes(rng: np.random.Generator) -> Draft:
    scene, _, index = _two(rng)
    radius = float(rng.uniform(15, 17))
    scene = scene.with_thing(index, r=radius / 0.62).with_thing(1 - index, r=radius)
    return Draft(scene, change_thing(scene, index, "smaller"), f"the {scene.things[index].shape} is bigger")


def _too_crowded(rng: np.random.Generator) -> Draft:
    scene = _scene(rng, 3)
    index = int(rng.integers(3))
    scene = _sized(rng, scene, index, (9, 11), (16, 19))
    return Draft(scene, remove(scene, index), f"the {scene.things[index].shape} is the smallest")


def _company(rng: np.random.Generator) -> Draft:
    scene, name = _one(rng, COLOUR_NAMES)
    left = rng.random() < 0.5
    scene = scene.with_thing(
        0,
        x=float(rng.uniform(27, 36) if left else rng.uniform(92, 101)),
        y=float(rng.uniform(56, 88)),
        r=float(rng.uniform(16, 21)),
    )
    side = "left" if left else "right"
    return Draft(scene, add_twin(scene), f"it is a {name} {scene.things[0].shape} on the {side}")


def _cheer_up(rng: np.random.Generator) -> Draft:
    scene, _, index = _two(rng)
    scene = scene.with_thing(1 - index, smile=smile_colour(scene.things[1 - index]))
    reason = f"the {scene.things[index].shape} does not smile"
    return Draft(scene, change_thing(scene, index, "smile"), reason)


# The image decides: the same words ask for different edits in different scenes.
DEPENDENT: dict[str, Maker] = {
    "hours_passed": _hours_passed,
    "odd_one": _odd_one,
    "matching_pair": _matching_pair,
    "freezing": _freezing,
    "right_light": _spoilt("dark", "bright"),
    "white_balance": _spoilt("warm", "cold"),
    "weather_fits": _weather_fits,
    "stand_out": _stand_out,
    "hide": _hide,
    "framed": _frame,
    "take_on": _take_on,
    "traffic_light": _traffic_light,
    "other_temper": _other_temper,
    "forgot_hat": _forgot_hat,
    "cannot_see": _cannot_see,
    "dressed_alike": _dressed_alike,
    "equal_sizes": _equal_sizes,
    "too_crowded": _too_crowded,
    "company": _company,
    "mend": _spoilt(*_SPOILT),
    "cheer_up": _cheer_up,
}


def _always(
    make: Callable[[Scene], ExplicitEdit], reason: str, place: str = "", alone: bool = False
) -> Maker:
    """Builds a maker for the same edit in every scene. `alone` draws scenes with one thing only."""

    def draw(rng: np.random.Generator) -> Draft:
        scene = _scene(rng, 1 if alone else int(rng.integers(1, 4)), place)
        return Draft(scene, make(scene), reason)

    return draw


def _tone(kind: str, reason: str, place: str = "") -> Maker:
    return _always(partial(tone, kind=kind), reason, place)


def _it(kind: str, reason: str) -> Maker:
    return _always(lambda scene: change_thing(scene, 0, kind, call="it"), reason, alone=True)


# The words alone decide.
INDEPENDENT: dict[str, Maker] = {
    "sun_on_head": _always(add_sun, "the sun burns from above", "ground"),
    "old_album": _tone("sepia", "old photos are brown"),
    "before_colour": _tone("gray", "without color all is gray"),
    "umbrella": _tone("rain", "water falls from the sky", "ground"),
    "lost_glasses": _tone("blur", "without glasses nothing is sharp"),
    "pencil_only": _tone("sketch", "a pencil draws lines"),
    "burnt_wood": _tone("charcoal", "burnt wood is charcoal"),
    "old_game": _tone("pixelate", "old computers had big pixels"),
    "tunnel": _tone("vignette", "a tunnel is dark at the edges"),
    "undeveloped": _tone("invert", "film is a negative"),
    "lost_in_haze": _tone("fog", "in fog one sees little", "ground"),
    "day_ends": _tone("sunset", "the sun goes down", "ground"),
    "bedtime": _tone("night", "it is late", "ground"),
    "left_in_window": _tone("fade", "the sun bleaches colors"),
    "candy_shop": _tone("vivid", "strong colors are loud"),
    "few_inks": _tone("posterize", "few inks are few colors"),
    "fireside": _tone("warm", "fire gives a warm light"),
    "under_water": _always(partial(tint, name="blue"), "the sea is blue"),
    "ate_too_much": _it("bigger", "it has to be bigger"),
    "washed_hot": _it("smaller", "it has to be smaller"),
    "joke": _it("smile", "who is happy smiles"),
    "gallery": _always(partial(put_frame, name="brown"), "pictures on a wall have frames of wood"),
}

MAKERS = {**DEPENDENT, **INDEPENDENT}
