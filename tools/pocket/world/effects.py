"""Edits of scenes, with their words: what the pocket editor is taught to follow.

An edit changes a scene before it is drawn (`local` edits, background, sky) or the image after it is drawn (tone, weather,
drawing styles). About one in five edits is *vague*: the words leave the parameter out ("tint the image"), and angles are
named in buckets of 30 degrees, so that a pair of images tells more than words can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from . import filters as f
from .drawing import COLOUR_NAMES, COLOURS, SHAPES, is_unseen_pair, random_colour
from .scenes import Scene, Thing, caption, render

Filter = Callable[[np.ndarray], np.ndarray]

LOCAL = (
    "recolor",
    "reshape",
    "remove",
    "hat",
    "border",
    "glasses",
    "eyes",
    "smile",
    "stripes",
    "dots",
    "bigger",
    "smaller",
    "add",
    "sun",
)
TONE = (
    "sepia", "gray", "invert", "warm", "cold", "brighter", "darker", "hue", "tint", "duotone", "vignette", "posterize",
    "contrast", "flat", "fade", "vivid", "sunset",
)  # fmt: skip
"""Global effects that make sense on photographs too."""
SCENIC = (
    "night",
    "sketch",
    "charcoal",
    "snow",
    "rain",
    "background",
    "sky",
    "blur",
    "frame",
    "fog",
    "pixelate",
)
GLOBAL = TONE + SCENIC
KINDS = LOCAL + GLOBAL
LOCAL_WEIGHT = 2.6
"""Local edits are harder and are sampled this many times as often as global ones."""
NEVER_TOGETHER = frozenset({("night", "snow"), ("snow", "night")})
"""Combinations kept for the held-out effects."""


@dataclass(frozen=True)
class Edit:
    """One edit: its words, the scene after it, the filters on the drawn image, and what they are called in a caption."""

    kind: str
    words: str
    scene: Scene
    filters: tuple[Filter, ...] = ()
    phrases: tuple[str, ...] = ()

    def render(self) -> np.ndarray:
        """Draw the image after the edit."""
        image = render(self.scene)
        for change in self.filters:
            image = change(image)
        return image.astype(np.float32)

    def caption(self, rng: np.random.Generator) -> str:
        """Caption the image after the edit: the scene, then the effect ("a red circle at night")."""
        return " ".join((caption(self.scene, rng), *self.phrases))


def pick(rng: np.random.Generator, *wordings: str) -> str:
    """Choose one wording."""
    return wordings[rng.integers(len(wordings))]


def _colour(
    rng: np.random.Generator, vague: bool, avoid: Callable[[str], bool] = lambda name: False
) -> tuple[str, np.ndarray]:
    """Return a colour and its name; the name is empty when `vague`."""
    if vague:
        return "", random_colour(rng)
    while True:
        name = COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))]
        if not avoid(name):
            return name, COLOURS[name]


def _degree(rng: np.random.Generator, low: float, high: float, words: str, vague: bool) -> tuple[float, str]:
    """Sample a strength and put it into words: "a little brighter", "much brighter", or plain when vague or in the middle."""
    share = rng.random()
    scale = "" if vague else "a little " if share < 0.3 else "much " if share > 0.7 else ""
    return float(low + share * (high - low)), words.replace("~", scale)


def _tone(kind: str, rng: np.random.Generator, vague: bool) -> tuple[str, Filter, str]:
    """Words, filter and caption phrase of a tone effect."""
    if kind == "sepia":
        return (
            pick(rng, "make it sepia", "turn it into a sepia photo", "make it look old"),
            f.sepia,
            "in sepia",
        )
    if kind == "gray":
        return (
            pick(rng, "make it black and white", "remove the color", "make it grayscale"),
            f.grey,
            "in black and white",
        )
    if kind == "invert":
        return (
            pick(rng, "invert the colors", "make it a negative", "turn it into a negative"),
            f.invert,
            "as a negative",
        )
    if kind in ("warm", "cold"):
        amount, words = _degree(
            rng,
            0.6,
            1.4,
            pick(rng, f"make it ~{kind}er", f"use a {kind} tone", f"make the colors ~{kind}er"),
            vague,
        )
        change = f.warm if kind == "warm" else f.cold
        return words, lambda p: change(p, amount), f"in a {kind} tone"
    if kind == "brighter":
        amount, words = _degree(
            rng,
            0.2,
            0.5,
            pick(rng, "make it ~brighter", "make the image ~brighter", "~brighten the image"),
            vague,
        )
        return words.replace("much brighten", "brighten"), lambda p: f.brighter(p, amount), "in bright light"
    if kind == "darker":
        amount, words = _degree(
            rng, 0.35, 0.65, pick(rng, "make it ~darker", "make the image ~darker", "darken the image"), vague
        )
        return words, lambda p: f.darker(p, amount), "in dark light"
    if kind == "hue":
        degrees = float(rng.uniform(22, 338))
        bucket = int(round(degrees / 30)) * 30
        named = pick(rng, f"shift the hue by {bucket}", f"rotate the hue by {bucket} degrees")
        return (
            (pick(rng, "shift the colors", "change the hue") if vague else named),
            lambda p: f.hue(p, degrees),
            "with shifted colors",
        )
    if kind == "tint":
        name, colour = _colour(rng, vague)
        words = pick(rng, f"tint the image {name}", f"give it a {name} tint", f"add a {name} tint")
        return words, lambda p: f.tint(p, colour), f"with a {name} tint"
    if kind == "duotone":
        name, colour = _colour(rng, vague, lambda name: name in ("black", "white", "gray"))
        dark, light = (
            (random_colour(rng) * 0.4, random_colour(rng) * 0.4 + 0.6)
            if vague
            else (colour * 0.25, colour * 0.3 + 0.7)
        )
        return (
            pick(rng, f"make it a {name} duotone", f"turn it into a {name} duotone"),
            lambda p: f.duotone(p, dark, light),
            f"as a {name} duotone",
        )
    if kind == "vignette":
        amount, words = _degree(
            rng, 0.7, 1.2, pick(rng, "add a vignette", "darken the corners", "darken the edges"), vague
        )
        return words, lambda p: f.vignette(p, amount), "with a vignette"
    if kind == "posterize":
        return (
            pick(rng, "posterize the image", "make it a poster", "use fewer colors"),
            f.posterize,
            "as a poster",
        )
    if kind == "contrast":
        factor, words = _degree(
            rng,
            1.4,
            2.2,
            pick(rng, "add ~contrast", "increase the contrast", "make it more contrasty"),
            vague,
        )
        return (
            words.replace("a little ", "some ").replace("much ", "more "),
            lambda p: f.contrast(p, factor),
            "with high contrast",
        )
    if kind == "flat":
        factor, words = _degree(
            rng, 0.35, 0.6, pick(rng, "reduce the contrast", "lower the contrast", "make it flat"), vague
        )
        return words, lambda p: f.contrast(p, factor), "with low contrast"
    if kind == "fade":
        return pick(rng, "fade the colors", "make it faded", "make it pale"), f.fade, "faded"
    if kind == "vivid":
        return (
            pick(rng, "make it vivid", "make the colors more vivid", "increase the saturation"),
            lambda p: f.saturate(p, 1.9),
            "in vivid colors",
        )
    if kind == "sunset":
        return (
            pick(rng, "make it sunset", "make it look like sunset", "turn it into a sunset"),
            f.sunset,
            "at sunset",
        )
    raise KeyError(kind)


def tone_edit(kind: str, rng: np.random.Generator, vague: bool | None = None) -> tuple[str, Filter, str]:
    """Sample a tone effect for any image: its words, its filter, its caption phrase."""
    words, change, phrase = _tone(kind, rng, bool(rng.random() < 0.2) if vague is None else vague)
    return " ".join(words.split()), change, " ".join(phrase.split())


def _scenic(scene: Scene, kind: str, rng: np.random.Generator, vague: bool) -> Edit:
    """Global effects that belong to drawn scenes: weather, drawing styles, backgrounds."""
    used = {thing.colour_name for thing in scene.things}
    plain: dict[str, tuple[Filter, str, tuple[str, ...]]] = {
        "night": (f.night, "at night", ("make it night", "turn it into night", "make it nighttime")),
        "sketch": (
            f.sketch,
            "as a sketch",
            ("make it a sketch", "turn it into a pencil drawing", "turn it into a sketch"),
        ),
        "charcoal": (
            f.charcoal,
            "in charcoal",
            ("make it a charcoal drawing", "turn it into charcoal", "draw it in charcoal"),
        ),
        "snow": (f.snow, "in the snow", ("add snow", "make it snow", "let it snow")),
        "rain": (f.rain, "in the rain", ("add rain", "make it rain", "let it rain")),
        "blur": (f.blur, "out of focus", ("blur the image", "make it blurry", "make it out of focus")),
        "pixelate": (
            f.pixelate,
            "in big pixels",
            ("pixelate the image", "turn it into pixels", "make it pixel art"),
        ),
    }
    if kind in plain:
        change, phrase, wordings = plain[kind]
        return Edit(kind, pick(rng, *wordings), scene, (change,), (phrase,))
    if kind == "fog":
        amount, words = _degree(
            rng, 0.45, 0.75, pick(rng, "add ~fog", "make it foggy", "add some mist"), vague
        )
        return Edit(
            kind,
            words.replace("a little fog", "some fog"),
            scene,
            (lambda p: f.fog(p, amount),),
            ("in the fog",),
        )
    if kind == "frame":
        name, colour = _colour(rng, vague)
        words = pick(rng, f"add a {name} frame", f"put a {name} frame around it", f"put it in a {name} frame")
        return Edit(kind, words, scene, (lambda p: f.frame(p, colour),), (f"in a {name} frame",))
    if kind == "sky" and scene.background == "ground":
        name, colour = _colour(rng, vague, lambda name: name in used)
        words = pick(rng, f"make the sky {name}", f"turn the sky {name}", f"change the sky to {name}")
        return Edit(
            kind,
            pick(rng, "change the sky", "recolor the sky") if vague else words,
            replace(scene, top=colour),
        )
    name, colour = _colour(rng, vague, lambda name: name in used)
    words = pick(
        rng,
        f"make the background {name}",
        f"change the background to {name}",
        f"put it on a {name} background",
    )
    after = replace(scene, background="plain", top=colour, bottom=colour, clouds=(), ground="")
    return Edit(
        "background", pick(rng, "change the background", "use another background") if vague else words, after
    )


def _free_place(scene: Scene, rng: np.random.Generator) -> tuple[float, float, float] | None:
    """Return a centre and radius clear of every thing, or None."""
    for _ in range(12):
        x, y, r = rng.uniform(20, 108), rng.uniform(46, 100), rng.uniform(14, 19)
        if all(np.hypot(thing.x - x, thing.y - y) > thing.r * 1.1 + r * 1.1 + 3 for thing in scene.things):
            return float(x), float(y), float(r)
    return None


def _add_thing(scene: Scene, rng: np.random.Generator, vague: bool) -> Edit | None:
    place = _free_place(scene, rng)
    taken = {thing.shape for thing in scene.things}
    if place is None:
        return None
    shape = pick(rng, *[shape for shape in SHAPES if shape not in taken])
    name, colour = _colour(rng, vague, lambda name: is_unseen_pair(shape, name))
    thing = Thing(shape, name, colour, *place)
    side = "on the left" if place[0] < scene.things[0].x else "on the right"
    words = pick(
        rng,
        f"add a {name} {shape}",
        f"draw a {name} {shape}",
        f"add a {name} {shape} {side}",
        f"add a {name} {shape} {side}",
    )
    return Edit("add", words, replace(scene, things=(*scene.things, thing)))


def _wear(
    scene: Scene, kind: str, index: int, the: str, rng: np.random.Generator, vague: bool
) -> Edit | None:
    """Hat, border, glasses, stripes, dots, smile or eyes on thing `index`; None where it wears that already."""
    thing = scene.things[index]
    if thing.eyes if kind == "eyes" else getattr(thing, kind) is not None:
        return None
    if kind == "eyes":
        return Edit(
            kind,
            pick(rng, f"add eyes to {the}", f"give {the} eyes", f"put eyes on {the}"),
            scene.with_thing(index, eyes=True),
        )
    if kind == "smile":
        dark = np.full(3, 0.05 if float(thing.colour @ f.LUMA) > 0.35 else 0.95, np.float32)
        return Edit(
            kind,
            pick(rng, f"add a smile to {the}", f"make {the} smile", f"give {the} a smile"),
            scene.with_thing(index, smile=dark),
        )
    name, colour = _colour(rng, vague, lambda name: name == thing.colour_name)
    what = {"hat": f"a {name} hat", "border": f"a {name} border"}.get(kind, f"{name} {kind}")
    verbs = (
        (f"put {what} on {the}", f"give {the} {what}")
        if kind in ("hat", "glasses")
        else (f"give {the} {what}", f"add {what} to {the}")
    )
    return Edit(kind, pick(rng, f"add {what} to {the}", *verbs), scene.with_thing(index, **{kind: colour}))


def _local(
    scene: Scene, kind: str, rng: np.random.Generator, vague: bool, index: int | None = None
) -> Edit | None:
    """Edit one thing of the scene; None where the scene has no room for it."""
    index = int(rng.integers(len(scene.things))) if index is None else index
    thing = scene.things[index]
    shape = thing.shape
    the = pick(rng, f"the {shape}", f"the {shape}", "it") if len(scene.things) == 1 else f"the {shape}"
    if kind == "recolor":
        name, colour = _colour(
            rng, vague, lambda name: name == thing.colour_name or is_unseen_pair(shape, name)
        )
        words = pick(
            rng,
            f"make {the} {name}",
            f"turn {the} {name}",
            f"change the color of {the} to {name}",
            f"color {the} {name}",
        )
        vague_words = pick(rng, f"recolor {the}", f"change the color of {the}")
        return Edit(
            kind, vague_words if vague else words, scene.with_thing(index, colour=colour, colour_name=name)
        )
    if kind == "reshape":
        taken = {other.shape for other in scene.things}
        to = pick(
            rng,
            *[
                name
                for name in SHAPES
                if name not in taken and not (thing.colour_name and is_unseen_pair(name, thing.colour_name))
            ],
        )
        words = pick(
            rng,
            f"turn {the} into a {to}",
            f"change {the} to a {to}",
            f"replace {the} with a {to}",
            f"make {the} a {to}",
        )
        return Edit(kind, words, scene.with_thing(index, shape=to))
    if kind == "remove":
        words = pick(rng, f"remove {the}", f"delete {the}", f"erase {the}", f"take {the} away")
        return Edit(
            kind, words, replace(scene, things=tuple(other for other in scene.things if other is not thing))
        )
    if kind == "bigger":
        return Edit(
            kind,
            pick(rng, f"make {the} bigger", f"make {the} larger", f"enlarge {the}"),
            scene.with_thing(index, r=thing.r * 1.38),
        )
    if kind == "smaller":
        return Edit(
            kind,
            pick(rng, f"make {the} smaller", f"shrink {the}", f"make {the} tiny"),
            scene.with_thing(index, r=thing.r * 0.62),
        )
    if kind == "add":
        return _add_thing(scene, rng, vague)
    if kind == "sun":
        sun = np.array([1.0, 0.85, 0.1], np.float32)
        return Edit(
            kind,
            pick(rng, "add a sun", "add the sun", "put a sun in the sky"),
            replace(scene, sun=sun),
            (),
            ("under the sun",),
        )
    return _wear(scene, kind, index, the, rng, vague)


def edit(
    scene: Scene, kind: str, rng: np.random.Generator, vague: bool | None = None, index: int | None = None
) -> Edit | None:
    """Sample an edit of `kind` for `scene` (thing `index`, or any); None where it cannot be done (no free place for "add")."""
    vague = bool(rng.random() < 0.2) if vague is None else vague
    if kind in TONE:
        words, change, phrase = _tone(kind, rng, vague)
        made: Edit | None = Edit(kind, words, scene, (change,), (phrase,))
    elif kind in LOCAL:
        made = _local(scene, kind, rng, vague, index)
    else:
        made = _scenic(scene, kind, rng, vague)
    if made is None:
        return None
    phrases = tuple(" ".join(phrase.split()) for phrase in made.phrases)
    return replace(made, words=" ".join(made.words.split()), phrases=phrases)


def sample_kind(rng: np.random.Generator) -> str:
    """Draw a kind of edit, local ones `LOCAL_WEIGHT` times as often."""
    weights = np.array([LOCAL_WEIGHT] * len(LOCAL) + [1.0] * len(GLOBAL))
    return KINDS[int(rng.choice(len(KINDS), p=weights / weights.sum()))]


def sample_edit(scene: Scene, rng: np.random.Generator, twice: float = 0.1) -> Edit:
    """Sample an edit of any kind; with probability `twice` two of them, joined by "and"."""
    while True:
        first = edit(scene, sample_kind(rng), rng)
        if first is None:
            continue
        if rng.random() >= twice or not first.scene.things:
            return first
        second = edit(first.scene, sample_kind(rng), rng)
        if second is None or second.kind == first.kind or (first.kind, second.kind) in NEVER_TOGETHER:
            return first
        return Edit(
            "two",
            f"{first.words} and {second.words}",
            second.scene,
            first.filters + second.filters,
            first.phrases + second.phrases,
        )
