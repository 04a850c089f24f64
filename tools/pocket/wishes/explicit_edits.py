"""Explicit edits that fulfill wishes, with one wording each, and a parser for these wordings."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..world import filters as f
from ..world.drawing import COLOUR_NAMES, COLOURS, SHAPES
from ..world.effects import SUN, smile_colour
from ..world.scene_edit import Filter
from ..world.scenes import Scene, caption, render

# Kind -> words, filter at the middle of the strengths that these words stand for, and caption phrase.
TONES: dict[str, tuple[str, Filter, str]] = {
    "sepia": ("make it sepia", f.sepia, "in sepia"),
    "gray": ("make it black and white", f.grey, "in black and white"),
    "invert": ("invert the colors", f.invert, "as a negative"),
    "warm": ("make it warmer", f.warm, "in a warm tone"),
    "cold": ("make it colder", f.cold, "in a cold tone"),
    "brighter": ("make it brighter", f.brighter, "in bright light"),
    "darker": ("make it darker", f.darker, "in dark light"),
    "vignette": ("add a vignette", partial(f.vignette, amount=0.95), "with a vignette"),
    "posterize": ("posterize the image", f.posterize, "as a poster"),
    "contrast": ("increase the contrast", partial(f.contrast, factor=1.8), "with high contrast"),
    "fade": ("fade the colors", f.fade, "faded"),
    "vivid": ("make it vivid", partial(f.saturate, factor=1.9), "in vivid colors"),
    "sunset": ("make it sunset", f.sunset, "at sunset"),
    "night": ("make it night", f.night, "at night"),
    "sketch": ("make it a sketch", f.sketch, "as a sketch"),
    "charcoal": ("make it a charcoal drawing", f.charcoal, "in charcoal"),
    "snow": ("add snow", f.snow, "in the snow"),
    "rain": ("add rain", f.rain, "in the rain"),
    "blur": ("blur the image", f.blur, "out of focus"),
    "pixelate": ("pixelate the image", f.pixelate, "in big pixels"),
    "fog": ("make it foggy", f.fog, "in the fog"),
}

# Kind -> wording of the edits with a target or a value. "the it" becomes "it".
WORDINGS = {
    "recolor": "make the {target} {value}",
    "reshape": "turn the {target} into a {value}",
    "remove": "remove the {target}",
    "bigger": "make the {target} bigger",
    "smaller": "make the {target} smaller",
    "hat": "add a {value} hat to the {target}",
    "stripes": "add {value} stripes to the {target}",
    "dots": "add {value} dots to the {target}",
    "eyes": "add eyes to the {target}",
    "smile": "add a smile to the {target}",
    "add": "add a {value} on the {target}",
    "sun": "add a sun",
    "background": "make the background {value}",
    "frame": "add a {value} frame",
    "tint": "tint the image {value}",
}

_COLOUR = "|".join(COLOUR_NAMES)
_SHAPE = "|".join(SHAPES)
_VALUES = {"reshape": _SHAPE, "add": f"(?:{_COLOUR}) (?:{_SHAPE})"}


def draw_filtered(scene: Scene, *changes: Filter | None) -> np.ndarray:
    """Draws a scene and applies filters, float32 [128, 128, 3] in 0..1. Skips filters that are None."""
    image = render(scene)
    for change in changes:
        image = image if change is None else np.clip(change(image), 0, 1)
    return image.astype(np.float32)


@dataclass(frozen=True)
class ExplicitEdit:
    """One explicit edit of a scene.

    `target` is what changes, "" for the whole image. `value` is the new color, shape or thing.
    """

    kind: str
    words: str
    scene: Scene
    target: str = ""
    value: str = ""
    filters: tuple[Filter, ...] = ()
    phrases: tuple[str, ...] = ()

    @property
    def meaning(self) -> tuple[str, str, str]:
        """Kind, target and value, as `parse_instruction` reads them from the words."""
        return self.kind, self.target, self.value

    def render(self, light: Filter | None = None) -> np.ndarray:
        """Draws the image after the edit. `light` is the filter that the image before the edit has too."""
        return draw_filtered(self.scene, light, *self.filters)

    def caption(self, rng: np.random.Generator) -> str:
        """Captions the image after the edit."""
        return " ".join((caption(self.scene, rng), *self.phrases))


def _wording(kind: str, target: str = "", value: str = "") -> str:
    return WORDINGS[kind].format(target=target, value=value).replace("the it", "it")


def tone(scene: Scene, kind: str) -> ExplicitEdit:
    """Applies one of `TONES` to the whole image."""
    words, change, phrase = TONES[kind]
    return ExplicitEdit(kind, words, scene, filters=(change,), phrases=(phrase,))


def change_thing(scene: Scene, index: int, kind: str, value: str = "", call: str = "") -> ExplicitEdit:
    """Recolors, reshapes, scales or dresses thing `index`.

    `value` is a color or, for "reshape", a shape. `call` names the thing in the words instead of its shape.
    """
    thing = scene.things[index]
    changes: dict[str, object]
    if kind == "recolor":
        changes = {"colour": COLOURS[value], "colour_name": value}
    elif kind == "reshape":
        changes = {"shape": value}
    elif kind in ("bigger", "smaller"):
        changes = {"r": thing.r * (1.38 if kind == "bigger" else 0.62)}
    elif kind == "eyes":
        changes = {"eyes": True}
    elif kind == "smile":
        changes = {"smile": smile_colour(thing)}
    else:
        changes = {kind: COLOURS[value]}
    target = call or thing.shape
    return ExplicitEdit(
        kind, _wording(kind, target, value), scene.with_thing(index, **changes), target, value
    )


def remove(scene: Scene, index: int) -> ExplicitEdit:
    """Removes thing `index`."""
    thing = scene.things[index]
    rest = replace(scene, things=tuple(other for other in scene.things if other is not thing))
    return ExplicitEdit("remove", _wording("remove", thing.shape), rest, thing.shape)


def add_twin(scene: Scene) -> ExplicitEdit:
    """Adds a copy of the only thing on the free side, mirrored at the middle."""
    thing = scene.things[0]
    side = "right" if thing.x < 64 else "left"
    value = f"{thing.colour_name} {thing.shape}"
    after = replace(scene, things=(thing, replace(thing, x=128 - thing.x)))
    return ExplicitEdit("add", _wording("add", side, value), after, side, value)


def add_sun(scene: Scene) -> ExplicitEdit:
    """Adds the sun to the sky."""
    return ExplicitEdit("sun", _wording("sun"), replace(scene, sun=SUN), phrases=("under the sun",))


def paint_background(scene: Scene, name: str) -> ExplicitEdit:
    """Makes the background one color."""
    after = replace(scene, background="plain", top=COLOURS[name], bottom=COLOURS[name], clouds=(), ground="")
    return ExplicitEdit("background", _wording("background", value=name), after, value=name)


def put_frame(scene: Scene, name: str) -> ExplicitEdit:
    """Adds a frame of one color."""
    return ExplicitEdit(
        "frame",
        _wording("frame", value=name),
        scene,
        value=name,
        filters=(lambda p: f.frame(p, COLOURS[name]),),
        phrases=(f"in a {name} frame",),
    )


def tint(scene: Scene, name: str) -> ExplicitEdit:
    """Tints the image with one color."""
    return ExplicitEdit(
        "tint",
        _wording("tint", value=name),
        scene,
        value=name,
        filters=(lambda p: f.tint(p, COLOURS[name]),),
        phrases=(f"with a {name} tint",),
    )


def _pattern(kind: str) -> re.Pattern[str]:
    pattern = WORDINGS[kind].replace("the {target}", f"(?P<target>it|the (?:{_SHAPE}|left|right))")
    return re.compile(pattern.replace("{value}", f"(?P<value>{_VALUES.get(kind, _COLOUR)})"))


_PATTERNS = {kind: _pattern(kind) for kind in WORDINGS}
_TONE_WORDS = {words: kind for kind, (words, _, _) in TONES.items()}


def parse_instruction(words: str) -> tuple[str, str, str] | None:
    """Parses an instruction to kind, target and value. Returns None for any other text."""
    text = " ".join(words.lower().split()).rstrip(".")
    if text in _TONE_WORDS:
        return _TONE_WORDS[text], "", ""
    for kind, pattern in _PATTERNS.items():
        found = pattern.fullmatch(text)
        if found:
            groups = found.groupdict()
            target = (groups.get("target") or "").removeprefix("the ")
            return kind, target, groups.get("value") or ""
    return None
