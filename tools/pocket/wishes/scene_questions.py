"""Questions about a scene and their answers. They teach the pocket reader to look at the image."""

from __future__ import annotations

import numpy as np

from ..world.drawing import SHAPES
from ..world.scenes import Scene, Thing, caption, describe, nearest_name

NUMBERS = ("no", "one", "two", "three")
ASK_CAPTION = ("describe the picture", "what does the picture show", "what is there to see")
_WORN = ("hat", "glasses", "stripes", "dots", "border")


def _short(thing: Thing) -> str:
    return f"a {nearest_name(thing.colour)} {thing.shape}"


def _place(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    ordered = sorted(scene.things, key=lambda thing: thing.x)
    if len(ordered) == 1:
        if ordered[0].x < 52:
            return "where is it", "on the left"
        if ordered[0].x > 76:
            return "where is it", "on the right"
        return "where is it", "in the middle"
    side, thing = [("left", ordered[0]), ("right", ordered[-1])][rng.integers(2)]
    return f"what is on the {side}", _short(thing)


def _size(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    ordered = sorted(scene.things, key=lambda thing: thing.r)
    if len(ordered) < 2:
        return None
    if rng.random() < 0.5:
        if ordered[1].r > 1.2 * ordered[0].r:
            return "which one is the smallest", f"the {ordered[0].shape}"
        return None
    if ordered[-1].r > 1.2 * ordered[-2].r:
        return "which one is the biggest", f"the {ordered[-1].shape}"
    return None


def _odd(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """Asks which of three things is the only one with its color or shape; None if there is no such thing."""
    for question, values in (
        ("which one has another color", [thing.colour_name for thing in scene.things]),
        ("which one has another shape", [thing.shape for thing in scene.things]),
    ):
        single = [index for index, value in enumerate(values) if values.count(value) == 1]
        if len(values) == 3 and len(single) == 1:
            return question, f"the {scene.things[single[0]].shape}"
    return None


def _worn(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    names = [name for name in _WORN if any(getattr(thing, name) is not None for thing in scene.things)]
    if any(thing.eyes for thing in scene.things):
        names.append("eyes")
    if any(thing.smile is not None for thing in scene.things):
        names.append("a smile")
    if not names:
        question = "what does it wear" if len(scene.things) == 1 else "what do they wear"
        return question, "nothing"
    name = names[rng.integers(len(names))]
    attribute = name.removeprefix("a ")
    wearers = [
        thing
        for thing in scene.things
        if getattr(thing, attribute) is not None and getattr(thing, attribute) is not False
    ]
    single = name in ("hat", "border")
    if attribute not in ("eyes", "smile") and rng.random() < 0.5:
        verb = "is" if single else "are"
        return f"what color {verb} the {attribute}", nearest_name(getattr(wearers[0], attribute))
    item = f"a {name}" if single else name
    return f"which one has {item}", " and ".join(f"the {thing.shape}" for thing in wearers)


def _behind(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    if scene.background == "ground":
        if rng.random() < 0.3:
            return "is the sun in the sky", "no" if scene.sun is None else "yes"
        if scene.ground and rng.random() < 0.6:
            return "what is the ground", scene.ground
        return "what is behind", f"ground and a {nearest_name(scene.top)} sky"
    kind = "gradient" if scene.background == "gradient" else "background"
    return "what is behind", f"a {nearest_name(scene.top)} {kind}"


def _colour(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    thing = scene.things[rng.integers(len(scene.things))]
    alone = [other.shape for other in scene.things].count(thing.shape) == 1
    if not alone:
        return "how many things are there", NUMBERS[len(scene.things)]
    if rng.random() < 0.5:
        return f"what color is the {thing.shape}", nearest_name(thing.colour)
    same = [other for other in scene.things if nearest_name(other.colour) == nearest_name(thing.colour)]
    return f"what is {nearest_name(thing.colour)}", " and ".join(f"the {other.shape}" for other in same)


def _count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < 0.5:
        return "how many things are there", NUMBERS[len(scene.things)]
    shape = SHAPES[rng.integers(len(SHAPES))]
    return f"is there a {shape}", "yes" if any(thing.shape == shape for thing in scene.things) else "no"


def sample_question(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """Draws a question about a scene with at least one thing, and its answer.

    Some questions ask for a caption.
    """
    kinds = (_place, _size, _odd, _worn, _behind, _colour, _colour, _count, _description)
    question = None
    while question is None:
        kind = kinds[rng.integers(len(kinds))]
        question = kind(scene, rng)
    return question


def _description(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < 0.5:
        return "what are the things", " and ".join(describe(thing) for thing in scene.things)
    return ASK_CAPTION[rng.integers(len(ASK_CAPTION))], caption(scene, rng)
