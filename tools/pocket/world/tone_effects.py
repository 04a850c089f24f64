"""Tone effects: global changes of color and light, for scenes and photographs alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import filters as f
from .drawing import random_colour
from .scene_edit import Filter, choose_colour, choose_strength, pick

TONE = (
    "sepia", "gray", "invert", "warm", "cold", "brighter", "darker", "hue", "tint", "duotone", "vignette",
    "posterize", "contrast", "flat", "fade", "vivid", "sunset",
)  # fmt: skip

# Words, filter and caption phrase.
ToneEdit = tuple[str, Filter, str]


@dataclass(frozen=True)
class FixedTone:
    """An effect without a parameter."""

    wordings: tuple[str, ...]
    filter: Filter
    phrase: str


@dataclass(frozen=True)
class GradedTone:
    """An effect with a strength between `low` and `high`.

    "~" in the wordings becomes "a little " or "much ".
    """

    wordings: tuple[str, ...]
    filter: Callable[[np.ndarray, float], np.ndarray]
    low: float
    high: float
    phrase: str
    replacements: tuple[tuple[str, str], ...] = ()
    """Corrections of the words once "~" is replaced."""


FIXED = {
    "sepia": FixedTone(
        ("make it sepia", "turn it into a sepia photo", "make it look old"), f.sepia, "in sepia"
    ),
    "gray": FixedTone(
        ("make it black and white", "remove the color", "make it grayscale"), f.grey, "in black and white"
    ),
    "invert": FixedTone(
        ("invert the colors", "make it a negative", "turn it into a negative"), f.invert, "as a negative"
    ),
    "posterize": FixedTone(
        ("posterize the image", "make it a poster", "use fewer colors"), f.posterize, "as a poster"
    ),
    "fade": FixedTone(("fade the colors", "make it faded", "make it pale"), f.fade, "faded"),
    "vivid": FixedTone(
        ("make it vivid", "make the colors more vivid", "increase the saturation"),
        lambda image: f.saturate(image, 1.9),
        "in vivid colors",
    ),
    "sunset": FixedTone(
        ("make it sunset", "make it look like sunset", "turn it into a sunset"), f.sunset, "at sunset"
    ),
}

GRADED = {
    "warm": GradedTone(
        ("make it ~warmer", "use a warm tone", "make the colors ~warmer"), f.warm, 0.6, 1.4, "in a warm tone"
    ),
    "cold": GradedTone(
        ("make it ~colder", "use a cold tone", "make the colors ~colder"), f.cold, 0.6, 1.4, "in a cold tone"
    ),
    "brighter": GradedTone(
        ("make it ~brighter", "make the image ~brighter", "~brighten the image"),
        f.brighter,
        0.2,
        0.5,
        "in bright light",
        (("much brighten", "brighten"),),
    ),
    "darker": GradedTone(
        ("make it ~darker", "make the image ~darker", "darken the image"),
        f.darker,
        0.35,
        0.65,
        "in dark light",
    ),
    "vignette": GradedTone(
        ("add a vignette", "darken the corners", "darken the edges"), f.vignette, 0.7, 1.2, "with a vignette"
    ),
    "contrast": GradedTone(
        ("add ~contrast", "increase the contrast", "make it more contrasty"),
        f.contrast,
        1.4,
        2.2,
        "with high contrast",
        (("a little ", "some "), ("much ", "more ")),
    ),
    "flat": GradedTone(
        ("reduce the contrast", "lower the contrast", "make it flat"),
        f.contrast,
        0.35,
        0.6,
        "with low contrast",
    ),
}


def _graded(tone: GradedTone, rng: np.random.Generator, vague: bool) -> ToneEdit:
    wording = pick(rng, *tone.wordings)
    amount, words = choose_strength(rng, tone.low, tone.high, wording, vague)
    for old, new in tone.replacements:
        words = words.replace(old, new)
    return words, lambda image: tone.filter(image, amount), tone.phrase


def _hue(rng: np.random.Generator, vague: bool) -> ToneEdit:
    degrees = float(rng.uniform(22, 338))
    bucket = int(round(degrees / 30)) * 30
    words = pick(rng, f"shift the hue by {bucket}", f"rotate the hue by {bucket} degrees")
    if vague:
        words = pick(rng, "shift the colors", "change the hue")
    return words, lambda image: f.hue(image, degrees), "with shifted colors"


def _tint(rng: np.random.Generator, vague: bool) -> ToneEdit:
    name, colour = choose_colour(rng, vague)
    words = pick(rng, f"tint the image {name}", f"give it a {name} tint", f"add a {name} tint")
    return words, lambda image: f.tint(image, colour), f"with a {name} tint"


def _duotone(rng: np.random.Generator, vague: bool) -> ToneEdit:
    name, colour = choose_colour(rng, vague, lambda name: name in ("black", "white", "gray"))
    if vague:
        dark = random_colour(rng) * 0.4
        light = random_colour(rng) * 0.4 + 0.6
    else:
        dark = colour * 0.25
        light = colour * 0.3 + 0.7
    words = pick(rng, f"make it a {name} duotone", f"turn it into a {name} duotone")
    return words, lambda image: f.duotone(image, dark, light), f"as a {name} duotone"


SAMPLED = {"hue": _hue, "tint": _tint, "duotone": _duotone}


def tone_edit(kind: str, rng: np.random.Generator, vague: bool | None = None) -> ToneEdit:
    """Samples a tone effect for any image. Raises KeyError for an unknown kind.

    `vague` words leave the parameter out; None decides at random.
    """
    vague = bool(rng.random() < 0.2) if vague is None else vague
    if kind in FIXED:
        fixed = FIXED[kind]
        words = pick(rng, *fixed.wordings)
        change = fixed.filter
        phrase = fixed.phrase
    elif kind in GRADED:
        words, change, phrase = _graded(GRADED[kind], rng, vague)
    else:
        words, change, phrase = SAMPLED[kind](rng, vague)
    return " ".join(words.split()), change, " ".join(phrase.split())
