"""Edits of scenes with their instructions: the training data of the pocket editor.

Local edits, background and sky change a scene before it is drawn. Tones, weather and drawing styles filter
the drawn image. About one edit in five is *vague*: its words leave the parameter out ("tint the image").
Angles are named in steps of 30 degrees. So a pair of images can tell more than words.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import filters as f
from .drawing import SHAPES, is_unseen_pair
from .scene_edit import Edit, Filter, choose_colour, choose_strength, pick
from .scenes import Scene, Thing
from .tone_effects import TONE, tone_edit

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
SUN = np.array([1.0, 0.85, 0.1], np.float32)
# Local edits are harder to learn, so they are sampled this many times as often as global ones.
LOCAL_WEIGHT = 2.6
# Combinations that only the held-out effects use.
NEVER_TOGETHER = frozenset({("night", "snow"), ("snow", "night")})

# Kind -> filter, caption phrase and wordings of the scenic effects without a parameter.
FIXED_SCENIC: dict[str, tuple[Filter, str, tuple[str, ...]]] = {
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


def _fog(scene: Scene, rng: np.random.Generator, vague: bool) -> Edit:
    wording = pick(rng, "add ~fog", "make it foggy", "add some mist")
    amount, words = choose_strength(rng, 0.45, 0.75, wording, vague)
    words = words.replace("a little fog", "some fog")
    return Edit("fog", words, scene, (lambda image: f.fog(image, amount),), ("in the fog",))


def _frame(scene: Scene, rng: np.random.Generator, vague: bool) -> Edit:
    name, colour = choose_colour(rng, vague)
    words = pick(rng, f"add a {name} frame", f"put a {name} frame around it", f"put it in a {name} frame")
    return Edit("frame", words, scene, (lambda image: f.frame(image, colour),), (f"in a {name} frame",))


def _sky(scene: Scene, rng: np.random.Generator, vague: bool) -> Edit:
    used = {thing.colour_name for thing in scene.things}
    name, colour = choose_colour(rng, vague, lambda name: name in used)
    words = pick(rng, f"make the sky {name}", f"turn the sky {name}", f"change the sky to {name}")
    if vague:
        words = pick(rng, "change the sky", "recolor the sky")
    return Edit("sky", words, replace(scene, top=colour))


def _background(scene: Scene, rng: np.random.Generator, vague: bool) -> Edit:
    used = {thing.colour_name for thing in scene.things}
    name, colour = choose_colour(rng, vague, lambda name: name in used)
    words = pick(
        rng,
        f"make the background {name}",
        f"change the background to {name}",
        f"put it on a {name} background",
    )
    after = replace(scene, background="plain", top=colour, bottom=colour, clouds=(), ground="")
    if vague:
        words = pick(rng, "change the background", "use another background")
    return Edit("background", words, after)


def _scenic(scene: Scene, kind: str, rng: np.random.Generator, vague: bool) -> Edit:
    """Samples a global effect for drawn scenes only: weather, drawing styles, frame, background, sky.

    "sky" becomes "background" in a scene without a sky.
    """
    if kind in FIXED_SCENIC:
        change, phrase, wordings = FIXED_SCENIC[kind]
        return Edit(kind, pick(rng, *wordings), scene, (change,), (phrase,))
    if kind == "fog":
        return _fog(scene, rng, vague)
    if kind == "frame":
        return _frame(scene, rng, vague)
    if kind == "sky" and scene.background == "ground":
        return _sky(scene, rng, vague)
    return _background(scene, rng, vague)


def _free_place(scene: Scene, rng: np.random.Generator) -> tuple[float, float, float] | None:
    """Returns a center and a radius clear of every thing, or None after 12 tries."""
    for _ in range(12):
        x = rng.uniform(20, 108)
        y = rng.uniform(46, 100)
        r = rng.uniform(14, 19)
        if all(np.hypot(thing.x - x, thing.y - y) > thing.r * 1.1 + r * 1.1 + 3 for thing in scene.things):
            return float(x), float(y), float(r)
    return None


def _add_thing(scene: Scene, rng: np.random.Generator, vague: bool) -> Edit | None:
    place = _free_place(scene, rng)
    taken = {thing.shape for thing in scene.things}
    if place is None:
        return None
    shape = pick(rng, *[shape for shape in SHAPES if shape not in taken])
    name, colour = choose_colour(rng, vague, lambda name: is_unseen_pair(shape, name))
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
    """Puts hat, border, glasses, stripes, dots, smile or eyes on a thing.

    Returns None if it already wears that.
    """
    thing = scene.things[index]
    wears_it = thing.eyes if kind == "eyes" else getattr(thing, kind) is not None
    if wears_it:
        return None
    if kind == "eyes":
        words = pick(rng, f"add eyes to {the}", f"give {the} eyes", f"put eyes on {the}")
        return Edit(kind, words, scene.with_thing(index, eyes=True))
    if kind == "smile":
        words = pick(rng, f"add a smile to {the}", f"make {the} smile", f"give {the} a smile")
        return Edit(kind, words, scene.with_thing(index, smile=smile_colour(thing)))
    name, colour = choose_colour(rng, vague, lambda name: name == thing.colour_name)
    item = f"a {name} {kind}" if kind in ("hat", "border") else f"{name} {kind}"
    if kind in ("hat", "glasses"):
        words = pick(rng, f"add {item} to {the}", f"put {item} on {the}", f"give {the} {item}")
    else:
        words = pick(rng, f"add {item} to {the}", f"give {the} {item}", f"add {item} to {the}")
    return Edit(kind, words, scene.with_thing(index, **{kind: colour}))


def smile_colour(thing: Thing) -> np.ndarray:
    """Returns near black for light things and near white for dark ones."""
    return np.full(3, 0.05 if float(thing.colour @ f.LUMA) > 0.35 else 0.95, np.float32)


def _recolor(scene: Scene, index: int, the: str, rng: np.random.Generator, vague: bool) -> Edit:
    thing = scene.things[index]
    name, colour = choose_colour(
        rng, vague, lambda name: name == thing.colour_name or is_unseen_pair(thing.shape, name)
    )
    words = pick(
        rng,
        f"make {the} {name}",
        f"turn {the} {name}",
        f"change the color of {the} to {name}",
        f"color {the} {name}",
    )
    # Drawn for every edit, also where it is not used: changing the order of draws would change all data.
    vague_words = pick(rng, f"recolor {the}", f"change the color of {the}")
    after = scene.with_thing(index, colour=colour, colour_name=name)
    return Edit("recolor", vague_words if vague else words, after)


def _reshape(scene: Scene, index: int, the: str, rng: np.random.Generator) -> Edit:
    colour = scene.things[index].colour_name
    taken = {other.shape for other in scene.things}
    possible = [
        name for name in SHAPES if name not in taken and not (colour and is_unseen_pair(name, colour))
    ]
    shape = pick(rng, *possible)
    words = pick(
        rng,
        f"turn {the} into a {shape}",
        f"change {the} to a {shape}",
        f"replace {the} with a {shape}",
        f"make {the} a {shape}",
    )
    return Edit("reshape", words, scene.with_thing(index, shape=shape))


def _remove(scene: Scene, index: int, the: str, rng: np.random.Generator) -> Edit:
    words = pick(rng, f"remove {the}", f"delete {the}", f"erase {the}", f"take {the} away")
    others = tuple(other for other in scene.things if other is not scene.things[index])
    return Edit("remove", words, replace(scene, things=others))


def _resize(scene: Scene, kind: str, index: int, the: str, rng: np.random.Generator) -> Edit:
    if kind == "bigger":
        words = pick(rng, f"make {the} bigger", f"make {the} larger", f"enlarge {the}")
        factor = 1.38
    else:
        words = pick(rng, f"make {the} smaller", f"shrink {the}", f"make {the} tiny")
        factor = 0.62
    return Edit(kind, words, scene.with_thing(index, r=scene.things[index].r * factor))


def _add_sun(scene: Scene, rng: np.random.Generator) -> Edit:
    words = pick(rng, "add a sun", "add the sun", "put a sun in the sky")
    return Edit("sun", words, replace(scene, sun=SUN), (), ("under the sun",))


def _local(
    scene: Scene, kind: str, rng: np.random.Generator, vague: bool, index: int | None = None
) -> Edit | None:
    """Edits one thing of the scene. Returns None where the edit is impossible."""
    index = int(rng.integers(len(scene.things))) if index is None else index
    shape = scene.things[index].shape
    the = f"the {shape}"
    if len(scene.things) == 1:
        the = pick(rng, f"the {shape}", f"the {shape}", "it")
    if kind == "recolor":
        return _recolor(scene, index, the, rng, vague)
    if kind == "reshape":
        return _reshape(scene, index, the, rng)
    if kind == "remove":
        return _remove(scene, index, the, rng)
    if kind in ("bigger", "smaller"):
        return _resize(scene, kind, index, the, rng)
    if kind == "add":
        return _add_thing(scene, rng, vague)
    if kind == "sun":
        return _add_sun(scene, rng)
    return _wear(scene, kind, index, the, rng, vague)


def edit(
    scene: Scene, kind: str, rng: np.random.Generator, vague: bool | None = None, index: int | None = None
) -> Edit | None:
    """Samples an edit of `kind` for `scene`.

    `vague` words leave the parameter out; None decides at random. `index` chooses the thing; None draws one.
    Returns None where the edit is impossible, such as "add" without a free place.
    """
    vague = bool(rng.random() < 0.2) if vague is None else vague
    made: Edit | None
    if kind in TONE:
        words, change, phrase = tone_edit(kind, rng, vague)
        made = Edit(kind, words, scene, (change,), (phrase,))
    elif kind in LOCAL:
        made = _local(scene, kind, rng, vague, index)
    else:
        made = _scenic(scene, kind, rng, vague)
    if made is None:
        return None
    phrases = tuple(" ".join(phrase.split()) for phrase in made.phrases)
    return replace(made, words=" ".join(made.words.split()), phrases=phrases)


def sample_kind(rng: np.random.Generator) -> str:
    """Draws a kind of edit."""
    weights = np.array([LOCAL_WEIGHT] * len(LOCAL) + [1.0] * len(GLOBAL))
    return KINDS[int(rng.choice(len(KINDS), p=weights / weights.sum()))]


def sample_edit(scene: Scene, rng: np.random.Generator, twice: float = 0.1) -> Edit:
    """Samples an edit of any kind; with probability `twice` two of them, joined by "and"."""
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
