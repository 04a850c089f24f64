"""A scripted language model that writes UltraEdit's instructions, examples and objects for the pocket world.

It reads the captions of ``tools/pocket/world/scenes.py`` out of a question and writes edits in words that the
built-in editors know. The same question gets the same answer.
"""

from __future__ import annotations

import hashlib
import random
import re

from ...core.generation.ultraedit.prompts import (
    BEFORE_LABEL,
    CAPTION_LABEL,
    INSTRUCTION_LABEL,
    MORE_LABEL,
    OBJECTS_LABEL,
)
from ...core.reasoning.object_grammar import objects_of
from ..pocket.world.drawing import COLOUR_NAMES, SHAPES

_THING = re.compile(rf"\ban? (?:small |big )?(\w+) ({'|'.join(SHAPES)})\b")
# Instruction -> what it adds to the caption, of edits of the whole image.
_WHOLE = {
    "make it night": "at night",
    "turn it into a pencil drawing": "as a sketch",
    "make it a charcoal drawing": "in charcoal",
    "make it snow": "in the snow",
    "add rain": "in the rain",
    "pixelate the image": "in big pixels",
    "turn it into an old sepia photo": "in sepia",
    "blur the image": "out of focus",
}
_COLOURED_WHOLE = (
    ("add a {} frame", "in a {} frame"),
    ("tint the image {}", "tinted {}"),
    ("change the background to {}", "on a {} background"),
)


def answer(question: str, seed: int = 0) -> str:
    """Returns the answer to a question of ``core/generation/ultraedit/prompts.py``; empty for others.

    Args:
        question: the words of the question.
        seed: other seeds give other answers, as a later attempt does.
    """
    rng = random.Random(int.from_bytes(hashlib.sha256(f"{seed} {question}".encode()).digest()[:8], "big"))
    if caption := _after(question, CAPTION_LABEL):
        wanted = re.search(r"edits to write: (\d)", question)
        return "\n".join(_edits(caption, rng, int(wanted[1]) if wanted else 1))
    if OBJECTS_LABEL in question:
        named = objects_of(_after(question, INSTRUCTION_LABEL))[:2]
        return ", ".join(_described(name, _after(question, BEFORE_LABEL)) for name in named) or "NONE"
    if MORE_LABEL in question:
        return "\n".join(_edits(_any_caption(rng), rng, 1)[0] for _ in range(10))
    return ""


def _described(name: str, caption: str) -> str:
    """Adds the color that the caption gives to a thing, so that it is found among others."""
    thing = next((thing for thing in _THING.finditer(caption) if thing[2] == name), None)
    return f"{thing[1]} {name}" if thing else name


def _after(question: str, label: str) -> str:
    found = re.search(rf"^{re.escape(label)} (.+)$", question, re.MULTILINE)
    return found[1].strip() if found else ""


def _edits(caption: str, rng: random.Random, number: int) -> list[str]:
    made: dict[str, str] = {}
    while len(made) < number:
        instruction, edited = _edit(caption, rng)
        if edited != caption:
            made[instruction] = f"{caption}; {instruction}; {edited}"
    return list(made.values())


def _edit(caption: str, rng: random.Random) -> tuple[str, str]:
    things = list(_THING.finditer(caption))
    if not things or rng.random() < 0.25:
        return _whole(caption, rng)
    thing = rng.choice(things)
    colour, shape = thing[1], thing[2]
    start, end = thing.span()
    new = rng.choice([name for name in COLOUR_NAMES if name != colour])
    other = rng.choice([name for name in SHAPES if name not in caption])

    def put(words: str) -> str:
        return f"{caption[:start]}{words}{caption[end:]}"

    kind = rng.choice(("color", "color", "turn", "replace", "hat", "glasses", "eyes", "add"))
    if kind == "color":
        words = rng.choice((f"make the {shape} {new}", f"change the color of the {shape} to {new}"))
        return words, put(f"{_a(new)} {shape}")
    if kind == "turn":
        return f"turn the {shape} into a {other}", put(f"{_a(colour)} {other}")
    if kind == "replace":
        return f"replace the {shape} with a {other}", put(f"{_a(colour)} {other}")
    if kind == "add":
        return f"add {_a(new)} {other}", put(f"{thing[0]} and {_a(new)} {other}")
    worn = {"hat": f"{_a(new)} hat", "glasses": f"{new} glasses", "eyes": "eyes"}[kind]
    verb = rng.choice(("add {} to the {}", "put {} on the {}"))
    return verb.format(worn, shape), put(f"{thing[0]} with {worn}")


def _whole(caption: str, rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.4:
        words, phrase = rng.choice(_COLOURED_WHOLE)
        colour = rng.choice(COLOUR_NAMES)
        return words.format(colour), f"{caption} {phrase.format(colour)}"
    words = rng.choice(list(_WHOLE))
    return words, f"{caption} {_WHOLE[words]}"


def _any_caption(rng: random.Random) -> str:
    return f"{_a(rng.choice(COLOUR_NAMES))} {rng.choice(SHAPES)}"


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
