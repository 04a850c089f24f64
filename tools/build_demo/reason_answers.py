"""A scripted language model that writes ReasonPix2Pix's indirect instructions for the pocket world.

It reads the captions of ``tools/pocket/world/scenes.py`` and the instructions of its effects out of a
question. The same question gets the same answer.
"""

from __future__ import annotations

import hashlib
import json
import random
import re

from ...core.generation.reason.prompts import (
    CANDIDATES_LABEL,
    EDITED_LABEL,
    IMAGE_LABEL,
    INSTRUCTION_LABEL,
    OBJECTS_LABEL,
)
from ..pocket.wishes.wordings import wordings
from ..pocket.world.drawing import SHAPES

# Words of an instruction -> the kind of wish that means it in any scene.
_WISHES = {
    "sepia|old photo": "old_album",
    "black and white|gray|grey": "before_colour",
    "rain": "umbrella",
    "snow": "freezing",
    "blur|out of focus": "lost_glasses",
    "sketch|pencil": "pencil_only",
    "charcoal": "burnt_wood",
    "pixel": "old_game",
    "vignette|corners": "tunnel",
    "invert|negative": "undeveloped",
    "fog|mist": "lost_in_haze",
    "sunset": "day_ends",
    "night": "bedtime",
    "fade|pale": "left_in_window",
    "vivid|saturat": "candy_shop",
    "poster": "few_inks",
    "warm": "fireside",
    "sun": "sun_on_head",
    "frame": "gallery",
    "bigger|larger|enlarge": "ate_too_much",
    "smaller|shrink|tiny": "washed_hot",
    "smile": "joke",
}
# Shape -> what is said about a thing that should have it.
_HINTS = {
    "circle": ("should be able to roll", "should look like a full moon"),
    "square": ("should have four equal sides and stand flat", "should look like a dice"),
    "triangle": ("needs only three corners", "should look like a pyramid"),
    "diamond": ("should please a jeweler", "should stand on its tip like a kite"),
    "star": ("should look like what shines in the sky at night", "deserves what the best pupils get"),
    "hexagon": ("should have as many sides as a cell of a honeycomb", "should be what bees build with wax"),
    "cross": ("should look like a plus sign", "should mark the place of the treasure"),
    "ring": ("should fit on a finger", "should get a hole in its middle"),
    "flower": ("should be something that bees like to visit", "should be something that grows in a garden"),
    "oval": ("should look like an egg", "should be round, but longer than wide"),
}
# Color -> what is said about a thing that should have it.
_COLOUR_HINTS = {
    "red": ("should look like a ripe tomato", "should be like a fire engine"),
    "orange": ("should look like a carrot", "should be like a pumpkin"),
    "yellow": ("should look like a lemon", "should be like a canary"),
    "green": ("should look like fresh grass", "should be like a frog"),
    "cyan": ("should look like shallow sea over a reef", "should be like a tropical lagoon"),
    "blue": ("should look like deep water", "should be like a pair of jeans"),
    "purple": ("should look like an eggplant", "should be like a ripe plum"),
    "pink": ("should look like a flamingo", "should be like a piglet"),
    "white": ("should look like fresh snow", "should be like milk"),
    "black": ("should look like coal", "should be like a raven"),
    "brown": ("should look like chocolate", "should be like coffee beans"),
    "gray": ("should look like an elephant", "should be like rain clouds"),
}
# Share of replacements by another shape. The built-in region editor rarely succeeds with these.
_RESHAPES = 0.15
_IMAGINED = (
    "in my dream there was {}",
    "the customer ordered {}",
    "my friend remembers {}",
    "she would rather look at {}",
    "the next page of the book shows {}",
    "the story goes on with {}",
    "he told us about {}",
)
_RESHAPED = re.compile(
    r"(?:turn|change|replace|make) (?P<thing>it|the \w+) (?:(?:in)?to |with )?a "
    rf"(?P<shape>{'|'.join(SHAPES)})"
)


def answer(question: str, seed: int = 0) -> str:
    """Returns the answer to a question of ``core/generation/reason/prompts.py``; empty for others.

    Args:
        question: the words of the question.
        seed: other seeds give other answers, as other samples and later attempts do.
    """
    rng = random.Random(int.from_bytes(hashlib.sha256(f"{seed} {question}".encode()).digest()[:8], "big"))
    if objects := _after(question, OBJECTS_LABEL):
        return _replacement(_after(question, IMAGE_LABEL), objects.split(", "), rng)
    if CANDIDATES_LABEL in question:
        return _choice(question, rng)
    if instruction := _after(question, INSTRUCTION_LABEL):
        return _wish(instruction, _after(question, EDITED_LABEL), rng)
    return ""


def _after(question: str, label: str) -> str:
    found = re.search(rf"^{re.escape(label)} (.+)$", question, re.MULTILINE)
    return found[1].strip() if found else ""


def _wish(instruction: str, edited: str, rng: random.Random) -> str:
    if reshaped := _RESHAPED.search(instruction):
        return f"{reshaped['thing']} {rng.choice(_HINTS[reshaped['shape']])}"
    kind = next((kind for words, kind in _WISHES.items() if re.search(rf"\b(?:{words})", instruction)), "")
    if not kind or rng.random() < 0.1:
        return rng.choice(_IMAGINED).format(edited)
    words = rng.choice([variant for group in wordings(kind) for variant in group])
    named = re.search(rf"\bthe (?:{'|'.join(SHAPES)})\b", instruction)
    return re.sub(r"^it\b", named[0], words) if named else words


def _choice(question: str, rng: random.Random) -> str:
    """Chooses a candidate, and prefers those that do not tell the edited caption."""
    candidates = re.findall(r"^(\d+)\. (.+)$", question[question.rindex(CANDIDATES_LABEL) :], re.MULTILINE)
    edited = _after(question, EDITED_LABEL)
    return rng.choice([number for number, text in candidates if edited not in text] or [candidates[0][0]])


def _replacement(caption: str, objects: list[str], rng: random.Random) -> str:
    things = [each for each in objects if each.split()[-1] in SHAPES]
    if not things:
        return "None of these objects can be replaced."
    selected = rng.choice(things)
    colour = next((word for word in selected.split() if word in _COLOUR_HINTS), "")
    if colour and rng.random() >= _RESHAPES:
        other = rng.choice([name for name in _COLOUR_HINTS if name not in caption])
        target = " ".join(other if word == colour else word for word in selected.split())
        hint = rng.choice(_COLOUR_HINTS[other])
    else:
        target = rng.choice([shape for shape in SHAPES if shape not in caption])
        hint = rng.choice(_HINTS[target])
    return json.dumps({"selected": selected, "target": target, "reasoning": f"the {selected} {hint}"})
