"""The words that the grammar of instructions knows: verbs, values, and words for the whole image."""

import re

# Verbs that begin an instruction whatever follows.
_CLEAR_VERBS = (
    "add", "apply", "blacken", "brighten", "convert", "create", "darken", "decrease", "delete", "desaturate",
    "enlarge", "erase", "exchange", "generate", "get rid of", "give", "hide", "increase", "insert", "invert",
    "let", "lighten", "lower", "make", "posterize", "put", "raise", "recolor", "recolour", "reduce", "remove",
    "replace", "resize", "rotate", "saturate", "sharpen", "shrink", "soften", "straighten", "swap",
    "take away", "transform", "whiten", "widen",
)  # fmt: skip
# Verbs that are also nouns or adjectives. They begin an instruction only before a determiner.
_UNCLEAR_VERBS = (
    "age", "blur", "change", "clean", "close", "color", "colour", "cover", "crop", "cut", "draw", "dress",
    "dry", "dye", "empty", "fade", "fill", "fix", "flip", "fold", "frame", "have", "move", "open", "paint",
    "pixelate", "place", "repair", "scale", "set", "shade", "smooth", "sort", "stack", "throw away", "tidy",
    "tint", "turn", "wash", "wipe",
)  # fmt: skip
_DETERMINERS = (
    "the", "a", "an", "it", "its", "this", "that", "these", "those", "his", "her", "their", "my", "our",
    "your", "all", "every", "each", "both", "some", "any", "one", "everything", "them", "him",
)  # fmt: skip

DETERMINER = "(?:" + "|".join(_DETERMINERS) + ")"
# The start of an instruction.
VERB = (
    rf"(?:(?:{'|'.join(_CLEAR_VERBS)})\s+\S|(?:{'|'.join(_UNCLEAR_VERBS)})\s+(?:(?:up|away|off)\s+)?"
    rf"{DETERMINER}\b)"
)

COLORS = frozenset(
    "red orange yellow green cyan teal turquoise blue navy purple violet magenta pink brown black white gray "
    "grey gold golden silver beige lavender olive maroon mint plum crimson scarlet ivory lime indigo".split()
)

# Property -> words for its values. Values of one property exclude each other.
_VALUES: dict[str, tuple[str, ...]] = {
    "light": ("brighter lighter bright", "darker dark dimmer"),
    "warmth": ("warmer warm hotter", "colder cold cooler cool"),
    "size": ("bigger larger big huge taller", "smaller tinier small tiny shorter"),
    "time": ("night midnight nighttime", "day daytime noon", "sunset dusk evening", "sunrise dawn morning"),
    "season": ("winter", "summer", "spring", "autumn fall"),
    "weather": ("sunny", "rainy", "snowy", "foggy", "cloudy"),
    "sharpness": ("sharper sharp", "blurry blurrier softer"),
    "age": ("older old", "younger young"),
    "mood": ("happy happier", "sad sadder"),
    "order": ("tidy tidier clean cleaner", "messy dirty dirtier"),
}
# Word -> (property, value).
VALUES: dict[str, tuple[str, str]] = {
    **{color: ("color", color) for color in COLORS},
    **{
        word: (name, group.split()[0])
        for name, groups in _VALUES.items()
        for group in groups
        for word in group.split()
    },
}

# Words that stand for the whole image, or for something that is everywhere in it.
WHOLE = frozenset(
    "it this that everything all image picture photo photograph drawing painting scene shot view screen "
    "canvas color colors colour colours contrast brightness light lighting exposure saturation tone tones "
    "hue hues mood style overall weather season time day night atmosphere composition whole entire full "
    "none nothing null filter effect quality resolution perspective angle vignette snow rain fog".split()
)

_ARTICLE = re.compile(rf"^(?:(?:{DETERMINER})\s+)+(?:of\s+(?:the\s+)?)?", re.IGNORECASE)


def without_determiner(phrase: str) -> str:
    """Removes determiners at the start: "the red hat" becomes "red hat". Keeps a phrase of nothing else."""
    return _ARTICLE.sub("", f"{phrase} ").strip() or phrase.strip()


def is_whole(phrase: str) -> bool:
    """Whether a phrase stands for the whole image: "it", "the whole picture", "the colors of the image"."""
    words = re.findall(r"[^\W_]+", phrase.lower())
    return bool(words) and all(
        word in WHOLE or word in ("of", "in") or word in _DETERMINERS for word in words
    )
