"""The type of an instruction, as UltraEdit's Table 5 counts them.

The supplement names the types and no rule. Here the first command decides, by its verb and its object:

- *add*, *replace* and *turn* by the verb.
- *transform* by the verb. It is global if the object is the whole image or what surrounds its things (see
  ``is_global``), else local.
- *change* by the verb. It is *color* if the command names a color as the new value, or the word color; else
  it is global or local. ``make``, ``give`` and the verbs of painting count as change.
- All others, also to remove things, are *others*.
"""

import re

from ...reasoning.answers import one_line
from ...reasoning.edit_words import COLORS, WHOLE, without_determiner
from ...reasoning.object_grammar import objects_of

EDIT_TYPES = (
    "change color",
    "change global",
    "change local",
    "transform global",
    "transform local",
    "add",
    "replace",
    "turn",
    "others",
)

_VERBS: dict[str, str] = {
    verb: family
    for family, verbs in {
        "add": "add insert include introduce place put attach hang draw install plant scatter sprinkle",
        "replace": "replace swap substitute exchange",
        "turn": "turn",
        "transform": "transform convert morph transfigure reimagine",
        "change": (
            "change alter modify adjust switch set shift vary make let give render color colour recolor "
            "recolour paint repaint dye tint brighten darken lighten saturate desaturate"
        ),
    }.items()
    for verb in verbs.split()
}
_PAINTS = frozenset("color colour recolor recolour paint repaint dye tint".split())
# What surrounds the things of an image.
_SURROUNDINGS = frozenset(
    "background backdrop scene scenery setting surroundings environment landscape foreground location place "
    "sunset sunrise winter summer spring autumn fall weather art artwork sketch cartoon".split()
)
_LEAD = re.compile(
    r"^(?:(?:please|now|then|first|next|also|and|can you|could you|would you|you should|let'?s|try to|i want "
    r"you to)\b[\s,]*)+"
)
# Where the object of a command ends and its new value begins.
_VALUE = re.compile(r"\b(?:from .+? to|into|to|with|by|as|in)\b")
_SHADES = frozenset("a an the light dark bright deep pale vivid shade of and all".split())


def edit_type(instruction: str) -> str:
    """Returns one of ``EDIT_TYPES``."""
    words = re.findall(r"[a-z'-]+", _first_command(instruction))
    family = _VERBS.get(words[0]) if words else None
    if family is None:
        return "others"
    if family in ("add", "replace", "turn"):
        return family
    if family == "change" and _is_color(words):
        return "change color"
    return f"{family} {'global' if is_global(instruction) else 'local'}"


def is_global(instruction: str) -> bool:
    """Whether the object of a command is the whole image or what surrounds its things.

    "Change the background to a beach", "make it snow" and "transform the photo into a painting" are global.
    """
    first = _first_command(instruction)
    named = objects_of(first)
    if named:
        return all(_is_surrounding(name) for name in named)
    target = _VALUE.split(first, maxsplit=1)[0].split(maxsplit=1)
    if len(target) == 2 and re.match(r"(?:it|everything|this)\b", target[1]):
        return True
    rest = without_determiner(target[1]) if len(target) == 2 else ""
    words = re.findall(r"[a-z]+", rest)
    return not words or _is_surrounding(" ".join(words)) or words[0] in WHOLE


def _first_command(instruction: str) -> str:
    return re.split(r"[,.;]|\band\b", _LEAD.sub("", one_line(instruction).lower()), maxsplit=1)[0]


def _is_surrounding(phrase: str) -> bool:
    words = re.findall(r"[a-z]+", phrase.lower())
    return bool(words) and (words[-1] in _SURROUNDINGS or words[-1] in WHOLE)


def _is_color(words: list[str]) -> bool:
    """Whether a command of change sets a color: it says so, or a color is its new value."""
    text = " ".join(words)
    if any(word in ("color", "colour", "colors", "colours") for word in words[1:]):
        return True
    if words[0] in _PAINTS:
        return True
    parts = _VALUE.split(text, maxsplit=1)
    if len(parts) == 2:
        # "to a red car" names a thing, "to red" and "to a light blue" a color.
        value = [word for word in parts[1].split() if word not in _SHADES]
        return bool(value) and all(word in COLORS for word in value)
    return words[0] in ("make", "let") and words[-1] in COLORS
