"""Finds the edited object of an explicit instruction by grammar, without a model.

Follows the note of UltraEdit's prompt: an edit of the whole image has no object, and to add or move an object
does not either, because it happens where the object is not.
"""

import re

from .edit_lists import split_sentence
from .edit_words import COLORS, DETERMINER, VALUES, is_whole, without_determiner

# Things that are drawn on an object and stay inside of its outline.
_SURFACE = frozenset(
    "stripes stripe dots dot spots spot pattern patterns checks texture eyes eye smile face mouth freckles "
    "beard moustache mustache makeup lipstick tattoo tattoos scratches rust cracks wrinkles color colour "
    "decoration decorations letters text logo print".split()
)
# Words for an object that no finder can search for.
_WITHOUT_NAME = frozenset("left right middle center centre top bottom side one ones other others two".split())
# Words between an object and its new value: "make the sky look like fire".
_STOPS = re.compile(
    r"\s+(?:look|looks|seem|appear|like|as|more|less|much|very|a bit|a little|slightly|smile|stand|wear|"
    r"be|to be)\b.*$"
)
# Where the words for an object end: "the star on the left" is searched as "star".
_PLACES = re.compile(
    r"\s+(?:in|on|at|near|behind|before|beside|above|below|under|between|next to|with|that|which|who|from|"
    r"for|by|so|until|and make|across|around|inside|into|to|but|except)\s+.*$"
)
# Adverbs of new values: "light blue", "very dark".
_SHADES = frozenset(
    "light dark bright deep pale very really slightly much more less a an the all too".split()
)
_DETERMINED = re.compile(DETERMINER + r"\b")
_PRONOUN = re.compile(r"(?:it|them|everything)\s|(?:this|that)\s+(?:an?\s|\S+$)")
# A new thing that follows the object: "make the star a big circle".
_NEW_THING = re.compile(r"(?<=\w)\s+an?\s.*$")
_PARTS = re.compile(r"(?:colou?rs?|size|shape|brightness|texture|style|look|background) of (.+)")

# Each rule: a pattern, and which of its groups hold the object. The first that fits counts.
_REPLACE = re.compile(
    r"(?:replace|exchange|swap|substitute) (.+?) (?:with|by|for) .+"
    r"|(?:turn|transform|convert|change|make|switch) (.+?) into .+"
    r"|(?:change|set|switch|turn) (.+?) (?:from .+ )?to .+"
)
_SWAP = re.compile(r"(?:swap|exchange) (.+) and (.+)")
_REMOVE = re.compile(r"(?:remove|delete|erase|hide|get rid of|take away|throw away|wipe away|cut out) (.+)")
_PUT = re.compile(r"(add|insert|put|place|draw|paint|apply|create|generate) (.+?) (?:to|on|onto|over) (.+)")
# "paint a flower on the wall" adds a flower, "paint the wall on the left" does not.
_PAINT_NEW = re.compile(
    r"paint (?:(?:an?|some|one|two|three|another|more) .+? (?:to|on|onto|over|in|at|near|behind|beside|above|"
    rf"below|under|between|next to|across|around|inside|into) .+|(?!{DETERMINER}\b).+? (?:on|onto|over|in|"
    r"across) (?:the|its|his|her|their|my|our|your) .+)"
)
_GIVE = re.compile(r"give (the .+?|its? .+?|an? .+?|them|it) (an? .+|some .+|\w+ \w+|\w+)")
_LET = re.compile(
    r"(?:let|have) (.+?) (?:be |look |become |get |wear |smile|laugh|stand|sit|sleep|glow|shine).*"
)
_DYE = re.compile(r"(?:paint|dye|color|colour|recolor|recolour|tint|make|turn) (.+)")
_PLAIN = re.compile(
    r"(?:dress|blur|sharpen|brighten|darken|lighten|enlarge|shrink|resize|scale|rotate|flip|clean|tidy|fix|"
    r"repair|open|close|fill|empty|cover|age|smooth|soften|straighten|widen|fold|stack|sort|dry|wash|wipe|"
    r"whiten|blacken|invert|desaturate|saturate|fade|pixelate|reduce|increase|decrease|lower|raise) "
    r"(?:up |off )?(.+)"
)

_END = re.compile(r"(?:,| and| please)+$")


def objects_of(instruction: str) -> list[str]:
    """Returns the words for the objects that an explicit instruction changes, without determiners.

    Returns:
        Different phrases in the order of the instruction; an empty list if the instruction changes the whole
        image, adds or moves an object, or is of a form that the grammar does not know.
    """
    found: dict[str, None] = {}
    for part in split_sentence(instruction) or [instruction]:
        text = " ".join(re.findall(r"[\w'-]+|,", part.lower())).replace(" ,", ",")
        text = _END.sub("", text)
        objects = [name for phrase in _phrases(text) for name in _names(phrase)]
        if not objects:
            return []
        found.update(dict.fromkeys(objects))
    return list(found)


def _phrases(text: str) -> list[str]:
    """Returns the parts of one command that hold objects."""
    if found := _REPLACE.fullmatch(text):
        return [next(group for group in found.groups() if group)]
    if found := _SWAP.fullmatch(text):
        return [found[1], found[2]]
    if found := _REMOVE.fullmatch(text):
        return [_cut(found[1])]
    if found := _PUT.fullmatch(text):
        if found[2].split()[-1] in _SURFACE:
            return [found[3]]
        if found[1] not in ("paint", "draw"):
            return []
    # "paint a star on the left red" has a new value, so the star is there.
    if _PAINT_NEW.fullmatch(text) and text.split()[-1] not in VALUES:
        return []
    if found := _GIVE.fullmatch(text):
        return [found[1]] if found[2].split()[-1] in _SURFACE else []
    if found := _LET.fullmatch(text) or _PLAIN.fullmatch(text):
        return [_cut(found[1])]
    if found := _DYE.fullmatch(text):
        return _before_value(found[1])
    return []


def _before_value(text: str) -> list[str]:
    """Cuts new values off: "the old star light blue and the hat red" becomes "the old star", "the hat"."""
    parts = re.split(r"\s*,\s*(?:and )?|\s+and\s+", text)
    # A part without a determiner goes on with the value: "red and blue".
    parts = [part for place, part in enumerate(parts) if not place or _DETERMINED.match(part)]
    return [
        _without_value(part) if place == len(parts) - 1 or part.split()[-1] in VALUES else _cut(part)
        for place, part in enumerate(parts)
    ]


def _without_value(text: str) -> str:
    if _PRONOUN.match(text):
        return "it"
    cut = _NEW_THING.sub("", _cut(_STOPS.sub("", text)))
    words = cut.split()
    if cut != text and words[-1] not in VALUES or len(words) < 2:
        return cut
    value = words.pop()
    while len(words) > 2 and words[-2:] != ["traffic", "light"] and _is_shade(words[-1], value):
        words.pop()
    if len(words) == 2 and words[1] in _SHADES:
        words.pop()
    return " ".join(words)


def _is_shade(word: str, value: str) -> bool:
    return word in _SHADES or (word in COLORS and value in COLORS)


def _cut(text: str) -> str:
    return _PLACES.sub("", text)


def _names(phrase: str) -> list[str]:
    """Returns the objects of a phrase: "the star and the hat" has two."""
    if found := _PARTS.fullmatch(without_determiner(phrase)):
        phrase = found[1]
    phrase = re.sub(r"(\w+)'s? (?:colou?r|size|shape)$", r"\1", phrase)
    parts = [part for part in re.split(r"\s*,\s*(?:and )?|\s+and\s+", phrase) if part]
    names = [without_determiner(_cut(part)).removesuffix(" color").removesuffix(" colour") for part in parts]
    return [] if any(is_whole(name) or name in _WITHOUT_NAME for name in names) else names
